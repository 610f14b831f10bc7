package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/vm/guestapi"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
)

// recovers says that the programs go on after a restart.
//
// TODO recovery: make it true, see every case pass, and remove it.
const recovers = false

// kill is a case: the program of one side is killed at a point, and started again
// with the same arguments. Its device is lent to it, as by a VMM, so that the kill
// moves it nowhere.
type kill struct {
	at   string       // the point, see internal/failpoint
	left vfio.State   // of that side's device, when the program is dead
	runs journal.Role // who has the device when the program was started again
}

const (
	source      = journal.Source
	destination = journal.Destination
)

// kills meet a migration in each phase of each side. Who runs is what the hand-off's
// failure matrix says: the source whose program was killed before COMMIT, or which
// hears that the destination's was before READY; after that the destination.
var kills = []kill{
	{"source.did.read", vfio.PreCopy, source},
	{"source.did.stop", vfio.StopCopy, source},
	{"source.did.append.commit", vfio.StopCopy, destination},
	{"source.did.send.commit", vfio.StopCopy, destination},
	{"source.on.running", vfio.StopCopy, destination},
	{"destination.did.append.open", vfio.Resuming, source},
	{"destination.did.write", vfio.Resuming, source},
	{"destination.did.append.ready", vfio.Stop, destination},
	{"destination.did.send.ready", vfio.Stop, destination},
	{"destination.did.append.accept", vfio.Stop, destination},
	{"destination.do.start", vfio.Stop, destination},
	{"destination.do.send.running", vfio.Running, destination},
}

// victim is the side whose program is killed.
func (k kill) victim() journal.Role {
	if strings.HasPrefix(k.at, source.String()) {
		return source
	}
	return destination
}

// points is what a side's program is to do where, at its first start.
func (k kill) points(of journal.Role) string {
	if of != k.victim() {
		return ""
	}
	return k.at + "=kill"
}

// records are those of the killed migration, in both journals, when all is over.
func (k kill) records() (ofSource, ofDestination string) {
	switch {
	case k.runs == destination:
		return "OWNER OPEN COMMIT DONE", "NONE OPEN READY ACCEPT DONE"
	case !recovers && k.victim() == source: // nobody has looked at them since
		return "OWNER OPEN", "NONE OPEN ABORTED"
	case !recovers:
		return "OWNER OPEN OWNER", "NONE OPEN"
	}
	return "OWNER OPEN OWNER", "NONE OPEN ABORTED"
}

func (k kill) String() string {
	return fmt.Sprintf("kill %s at %s", map[journal.Role]string{source: "mig-send", destination: "mig-recv"}[k.victim()], k.at)
}

// outcome is what has become of the device.
func (k kill) outcome() string {
	if !recovers && k.victim() == source {
		return "its holder takes the device back"
	}
	return k.runs.String() + " runs"
}

// testKill plays the cases and prints a line about each.
func testKill(t *testing.T, p pair) {
	p.host.need(t, killableSend, killableRecv)
	ids := map[*machine]string{}
	for _, m := range []*machine{p.source, p.destination} {
		ids[m] = m.run(t, "/bin/"+killableSend, "id", "--identity", key)
	}
	var passed atomic.Int32
	begin := time.Now()
	t.Cleanup(func() { // when all have ended
		fmt.Printf("vm: %s: %d of %d kills passed, in %.0f s\n", p.kernel, passed.Load(), len(kills), time.Since(begin).Seconds())
	})
	for i, k := range kills {
		t.Run(k.at, func(t *testing.T) {
			if !recovers && k.runs == destination {
				fmt.Printf("vm: %s: TODO: %v DID NOT RUN, for want of recovery after a restart\n", p.kernel, k)
				t.Skip("waits for recovery after a restart")
			}
			t.Parallel() // they wait more than they work
			began := time.Now()
			k.play(&stage{p: p, ids: ids, t: t, port: 7000 + i})
			if !t.Failed() {
				passed.Add(1)
				fmt.Printf("vm: %s: %v: %s, second migration commits (%.1f s)\n", p.kernel, k, k.outcome(), time.Since(began).Seconds())
			}
		})
	}
}

// stage is what a case is played on: a device at each side, what the one that runs
// must hold, and a folder for journals, which has the same name in both guests.
type stage struct {
	p        pair
	ids      map[*machine]string
	t        *testing.T
	port     int // of mig-recv, before and after a kill
	from, to *held
	holds    []port
	folder   string
	mig      string // of the migration that is killed
}

// play runs a migration into the kill, starts what was killed again, and lets what
// has the device then migrate it once more.
func (k kill) play(s *stage) {
	s.set()
	recv := s.receive(s.from, s.to, k.points(destination))
	send := s.send(s.from, s.to, k.points(source))
	if k.victim() == source {
		send.awaitKill(s.t)
		s.from.checkState(s.t, k.left)
	} else {
		recv.awaitKill(s.t)
		s.to.checkState(s.t, k.left)
	}
	s.mig = s.only(s.from.m, source)
	switch {
	case k.runs == destination:
		s.handedOver(k.victim(), send, recv)
	case k.victim() == source:
		s.takenBack(recv)
	default:
		s.givenBack(send)
	}
	s.checkRecords(k)
}

func (s *stage) set() {
	s.from, s.to = s.p.source.newMdev(s.t, 1).open(s.t), s.p.destination.newMdev(s.t, 1).open(s.t)
	s.folder = "/tmp/" + s.from.uuid
	s.holds = slices.Clone(otherPorts)
	s.from.setPorts(s.t, s.holds...)
}

// takenBack is a source that was killed before COMMIT. mig-recv is told by nobody, and
// gives up. mig-send takes the device back before it migrates it anew.
func (s *stage) takenBack(recv *job) {
	if e := recv.done(s.t); e.Outcome != "aborted" || e.Exit == 0 {
		s.t.Errorf("mig-recv alone: %+v, want aborted", e)
	}
	s.to.checkState(s.t, vfio.Running) // by its reset: it holds nobody's state
	recv = s.receive(s.from, s.to, "")
	if !recovers {
		s.from.setState(s.t, vfio.Running) // as its holder may, after the end of mig-send
	}
	send := s.send(s.from, s.to, "source.on.begin=sleep:500ms") // time enough to look
	s.from.awaitState(s.t, vfio.Running)
	s.goOn(s.from)
	s.arrived(migration{send, recv}, s.from, s.to)
}

// givenBack is a source that hears that the destination was killed before READY.
func (s *stage) givenBack(send *job) {
	recv := s.receive(s.from, s.to, "")
	if e := send.done(s.t); e.Outcome != "aborted" || e.Exit < 1 || e.Exit >= exitInDoubt {
		s.t.Errorf("mig-send without mig-recv: %+v, want aborted", e)
	}
	if recovers {
		s.to.awaitState(s.t, vfio.Running) // by its reset
	}
	s.goOn(s.from)
	if ended(s.t, recv, time.Second) { // that was its one migration
		recv = s.receive(s.from, s.to, "")
	}
	s.arrived(migration{s.send(s.from, s.to, ""), recv}, s.from, s.to)
}

// handedOver is a migration of which a side was killed after READY: it ends as if
// nothing had been, and the way back is the second one.
func (s *stage) handedOver(victim journal.Role, send, recv *job) {
	if victim == source {
		send = s.send(s.from, s.to, "")
	} else {
		recv = s.receive(s.from, s.to, "")
	}
	recv = s.settle(send, recv)
	for _, j := range []*job{send, recv} {
		if e := j.done(s.t); e.Outcome != "committed" {
			s.t.Fatalf("%s: %+v, want committed", j.name, e)
		}
	}
	s.from.checkState(s.t, vfio.Stop)
	s.goOn(s.to)
	recv = s.receive(s.to, s.from, "")
	s.arrived(migration{s.send(s.to, s.from, ""), recv}, s.to, s.from)
}

// settle waits for mig-send's end, and sees that the device runs once. A mig-recv that
// has ended before, because it had heard nothing for too long, is started again: only
// it can tell mig-send. The one that was started last is returned.
func (s *stage) settle(send, recv *job) *job {
	s.t.Helper()
	for deadline := time.Now().Add(2 * callTime); time.Now().Before(deadline); {
		s.checkOnce()
		if ended(s.t, send, 20*time.Millisecond) {
			return recv
		}
		if ended(s.t, recv, 0) && !ended(s.t, send, time.Second) {
			recv = s.receive(s.from, s.to, "")
		}
	}
	s.t.Fatalf("mig-send still runs after %v", 2*callTime)
	panic("unreachable")
}

// checkOnce looks at the destination first: once it runs, the source never does.
func (s *stage) checkOnce() {
	s.t.Helper()
	to, from := s.to.state(s.t), s.from.state(s.t)
	if to == vfio.Running && (from == vfio.Running || from == vfio.PreCopy) {
		s.t.Errorf("both run: the source is in %v, the destination in %v", from, to)
	}
}

// goOn checks that a device runs with what it must hold, and has its guest change that,
// so that no copy that was made before can pass for the one that comes.
func (s *stage) goOn(h *held) {
	s.t.Helper()
	h.checkState(s.t, vfio.Running)
	h.checkLatches(s.t, s.holds...)
	s.holds[0].Scratch++
	h.out(s.t, 0, regScratch, s.holds[0].Scratch)
}

// arrived waits for a migration that nobody disturbs.
func (s *stage) arrived(m migration, from, to *held) {
	s.t.Helper()
	m.checkCommitted(s.t, onePort)
	from.checkState(s.t, vfio.Stop)
	to.checkState(s.t, vfio.Running)
	to.checkPorts(s.t, s.holds...)
}

// checkRecords reads the killed migration's journals.
func (s *stage) checkRecords(k kill) {
	s.t.Helper()
	ofSource, ofDestination := k.records()
	s.checkJournal(s.from.m, source, ofSource)
	s.checkJournal(s.to.m, destination, ofDestination)
}

func (s *stage) checkJournal(m *machine, role journal.Role, want string) {
	s.t.Helper()
	name := s.mig + "." + role.String()
	copied := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(copied, []byte(m.readFile(s.t, s.folder+"/"+name)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	all, err := journal.Read(copied)
	if err != nil {
		s.t.Fatal(err)
	}
	var records []string
	for _, r := range all {
		records = append(records, r.Record.String())
	}
	// What is done again is recorded again.
	if got := strings.Join(slices.Compact(records), " "); got != want {
		s.t.Errorf("the %v's journal: %s, want %s", role, got, want)
	}
}

// only gives the migration that a guest has the only journal of.
func (s *stage) only(m *machine, role journal.Role) string {
	s.t.Helper()
	names := m.glob(s.t, s.folder+"/*."+role.String())
	if len(names) != 1 {
		s.t.Fatalf("journals at the %v: %q, want one", role, names)
	}
	return strings.TrimSuffix(filepath.Base(names[0]), "."+role.String())
}

// receive starts mig-recv for a migration between two devices, and returns when it
// listens.
func (s *stage) receive(from, to *held, points string) *job {
	s.t.Helper()
	j := s.start(to, points, "/bin/"+killableRecv, "--listen", s.address(to), "--peer", s.ids[from.m])
	j.await(s.t, "listening")
	return j
}

// send starts mig-send for a migration between two devices.
func (s *stage) send(from, to *held, points string) *job {
	s.t.Helper()
	return s.start(from, points, "/bin/"+killableSend, "--to", s.address(to), "--peer", s.ids[to.m], "--downtime-limit", patientLimit)
}

func (s *stage) address(to *held) string { return fmt.Sprintf("%s:%d", to.m.address, s.port) }

func (s *stage) start(h *held, points string, argv ...string) *job {
	s.t.Helper()
	flags, files := deviceFlags([]end{inherited(h)})
	argv = append(append(argv, flags...), "--identity", key, "--state-dir", s.folder, "--volatile-state", "--json")
	return h.m.start(s.t, guestapi.Command{Argv: argv, Files: files, Env: []string{"MIGPIPE_FAILPOINTS=" + points}})
}

// awaitKill waits for the end of a program that kills itself.
func (j *job) awaitKill(t *testing.T) {
	t.Helper()
	if r := j.wait(t, callTime); r.Exit != -1 {
		t.Fatalf("%s on %s ended with %d: its point was not reached", j.name, j.m.name, r.Exit)
	}
}

// ended reports whether a program ends within limit.
func ended(t *testing.T, j *job, limit time.Duration) bool {
	t.Helper()
	r, err := j.poll(limit)
	if err != nil {
		t.Fatal(err)
	}
	return r.Exited
}
