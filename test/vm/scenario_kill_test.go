package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/vm/guestapi"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
)

// kill is a case: the program of one side is killed at a point, and started again with the
// same arguments. Its device is lent to it, as by a VMM, so that the kill does not change the
// device's state.
type kill struct {
	at   string       // the point, see internal/failpoint
	left vfio.State   // of that side's device, when the program is dead
	runs journal.Role // the side that has the device after the restart
	too  also
}

// also is what ends together with the killed program.
type also string

const (
	nothing also = ""
	peer    also = " and the other program" // killed at once too
	copied  also = " and its device"        // lost by its holder too
)

const (
	source      = journal.Source
	destination = journal.Destination
)

// kills stop a migration in each phase of each side. The side that runs follows from the
// hand-off's failure matrix. It is the source if its program was killed before COMMIT, or if
// it learns that the destination's was killed before READY, or that the copy is lost.
// Otherwise it is the destination.
var kills = []kill{
	{"source.did.read", vfio.PreCopy, source, nothing},
	{"source.did.stop", vfio.StopCopy, source, nothing},
	{"source.did.append.commit", vfio.StopCopy, destination, nothing},
	{"source.did.send.commit", vfio.StopCopy, destination, nothing},
	{"source.on.running", vfio.StopCopy, destination, nothing},
	{"destination.did.append.open", vfio.Resuming, source, nothing},
	{"destination.did.write", vfio.Resuming, source, nothing},
	{"destination.did.append.ready", vfio.Stop, destination, nothing},
	{"destination.did.send.ready", vfio.Stop, destination, nothing},
	{"destination.did.append.accept", vfio.Stop, destination, nothing},
	{"destination.do.start", vfio.Stop, destination, nothing},
	{"destination.do.send.running", vfio.Running, destination, nothing},
	{"source.did.append.commit", vfio.StopCopy, destination, peer},
	{"destination.on.commit", vfio.Stop, source, copied},
}

// victim is the side whose program is killed.
func (k kill) victim() journal.Role {
	if strings.HasPrefix(k.at, source.String()) {
		return source
	}
	return destination
}

// points are the failpoints of a side's program at its first start.
func (k kill) points(of journal.Role) string {
	if of != k.victim() {
		return ""
	}
	return k.at + "=kill"
}

// records are the records of the killed migration, in both journals, at the end.
func (k kill) records() (ofSource, ofDestination string) {
	switch {
	case k.runs == destination:
		return "OWNER OPEN COMMIT DONE", "NONE OPEN READY ACCEPT RUNNING DONE"
	case k.victim() == source: // it has tried again
		return "OWNER OPEN OWNER OPEN COMMIT DONE", "NONE OPEN ABORTED OPEN READY ACCEPT RUNNING DONE"
	case k.too == copied:
		return "OWNER OPEN COMMIT OWNER", "NONE OPEN READY ABORTED"
	}
	return "OWNER OPEN OWNER", "NONE OPEN ABORTED"
}

// name is the case's name in the test.
func (k kill) name() string { return k.at + string(k.too) }

func (k kill) String() string {
	program := map[journal.Role]string{source: "mig-send", destination: "mig-recv"}[k.victim()]
	return fmt.Sprintf("kill %s%s at %s", program, k.too, k.at)
}

// testKill runs the cases and prints a line about each.
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
		t.Run(k.name(), func(t *testing.T) {
			t.Parallel() // they mostly wait
			began := time.Now()
			k.play(&stage{p: p, ids: ids, t: t, port: 7000 + i})
			if !t.Failed() {
				passed.Add(1)
				fmt.Printf("vm: %s: %v: %v runs, second migration commits (%.1f s)\n", p.kernel, k, k.runs, time.Since(began).Seconds())
			}
		})
	}
}

// stage is the setting of a case: a device at each side, the content of the running one, and
// a directory for journals, which has the same name in both guests.
type stage struct {
	p        pair
	ids      map[*machine]string
	t        *testing.T
	port     int // of mig-recv, before and after a kill
	from, to *held
	holds    []port
	dir      string
	mig      string // of the migration that is killed
}

// play runs a migration into the kill and restarts the killed programs. Then it migrates the
// running device once more.
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
	switch k.too {
	case peer: // it waits for the victim's message
		recv.signal(s.t, syscall.SIGKILL)
		recv.awaitKill(s.t)
		s.to.checkState(s.t, vfio.Stop)
	case copied:
		s.lose()
	}
	switch {
	case k.runs == destination:
		s.handedOver(k, send, recv)
	case k.victim() == source:
		s.takenBack(recv)
	default:
		s.givenBack(send)
	}
	s.checkRecords(k)
}

func (s *stage) set() {
	s.from, s.to = s.p.source.newMdev(s.t, 1).open(s.t), s.p.destination.newMdev(s.t, 1).open(s.t)
	s.dir = "/tmp/" + s.from.uuid
	s.holds = slices.Clone(otherPorts)
	s.from.setPorts(s.t, s.holds...)
}

// lose kills a holder at the destination and starts it again: the last close of a VFIO
// device resets it. mtty leaves the reset to the next process that opens it.
func (s *stage) lose() {
	s.t.Helper()
	s.to.close(s.t)
	s.to = s.to.mdev.open(s.t)
	s.to.reset(s.t)
	s.to.checkState(s.t, vfio.Running)
}

// takenBack is a source that was killed before COMMIT. mig-send returns the device to
// RUNNING and migrates it again, to the mig-recv that still has the killed attempt.
func (s *stage) takenBack(recv *job) {
	send := s.send(s.from, s.to, "source.on.begin=sleep:2s") // time enough to look
	s.from.awaitState(s.t, vfio.Running)
	s.goOn(s.from)
	s.arrived(migration{send, recv}, s.from, s.to)
}

// givenBack is a source that learns that the destination was killed before READY, or has lost
// its copy.
func (s *stage) givenBack(send *job) {
	recv := s.receive(s.from, s.to, "")
	if e := send.done(s.t); e.Outcome != "aborted" || e.Exit < 1 || e.Exit >= exitInDoubt {
		s.t.Errorf("mig-send without mig-recv: %+v, want aborted", e)
	}
	s.to.awaitState(s.t, vfio.Running) // by its reset
	s.goOn(s.from)
	if ended, _ := recv.ended(s.t, time.Second); ended { // that was its one migration
		recv = s.receive(s.from, s.to, "")
	}
	s.arrived(migration{s.send(s.from, s.to, ""), recv}, s.from, s.to)
}

// handedOver is a migration after which one side was killed after READY. It ends as if
// the kill had not happened, and a second migration goes the other way.
func (s *stage) handedOver(k kill, send, recv *job) {
	if k.victim() == source {
		send = s.send(s.from, s.to, "")
	}
	if k.victim() == destination || k.too == peer {
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

// settle waits for mig-send's end, and checks that the device runs once. It restarts a mig-recv
// that has failed before, as a supervisor does: only mig-recv can answer mig-send. It returns
// the last one.
func (s *stage) settle(send, recv *job) *job {
	s.t.Helper()
	for deadline := time.Now().Add(2 * callTime); time.Now().Before(deadline); {
		s.checkOnce()
		if ended, _ := send.ended(s.t, 100*time.Millisecond); ended {
			return recv
		}
		if _, failed := recv.ended(s.t, 0); failed {
			recv = s.receive(s.from, s.to, "")
		}
	}
	s.t.Fatalf("mig-send still runs after %v", 2*callTime)
	panic("unreachable")
}

// checkOnce reads the destination's state first: once it runs, the source never does.
func (s *stage) checkOnce() {
	s.t.Helper()
	to, from := s.to.state(s.t), s.from.state(s.t)
	if to == vfio.Running && (from == vfio.Running || from == vfio.PreCopy) {
		s.t.Errorf("both run: the source is in %v, the destination in %v", from, to)
	}
}

// goOn checks that a device runs with its expected content. It changes the content, so that
// no earlier copy can pass for the next one.
func (s *stage) goOn(h *held) {
	s.t.Helper()
	h.checkState(s.t, vfio.Running)
	h.checkLatches(s.t, s.holds...)
	s.holds[0].Scratch++
	h.out(s.t, 0, regScratch, s.holds[0].Scratch)
}

// arrived waits for an undisturbed migration.
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
	if err := os.WriteFile(copied, []byte(m.readFile(s.t, s.dir+"/"+name)), 0o600); err != nil {
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
	// A repeated step is recorded again.
	if got := strings.Join(slices.Compact(records), " "); got != want {
		s.t.Errorf("the %v's journal: %s, want %s", role, got, want)
	}
}

// only returns the migration of a guest's only journal.
func (s *stage) only(m *machine, role journal.Role) string {
	s.t.Helper()
	names := m.glob(s.t, s.dir+"/*."+role.String())
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
	return s.start(from, points, "/bin/"+killableSend, "--to", s.address(to), "--peer", s.ids[to.m], "--downtime-target", patientLimit)
}

func (s *stage) address(to *held) string { return fmt.Sprintf("%s:%d", to.m.address, s.port) }

func (s *stage) start(h *held, points string, argv ...string) *job {
	s.t.Helper()
	flags, files := deviceFlags([]end{inherited(h)})
	argv = append(append(argv, flags...), "--identity", key, "--state-dir", s.dir, "--volatile-state", "--continue", "--json")
	return h.m.start(s.t, guestapi.Command{Argv: argv, Files: files, Env: []string{"MIGPIPE_FAILPOINTS=" + points}})
}

// awaitKill waits for the end of a program that kills itself.
func (j *job) awaitKill(t *testing.T) {
	t.Helper()
	if r := j.wait(t, callTime); r.Exit != -1 {
		t.Fatalf("%s on %s ended with %d: its point was not reached", j.name, j.m.name, r.Exit)
	}
}

// ended reports whether a program ends within limit, and whether it failed.
func (j *job) ended(t *testing.T, limit time.Duration) (ended, failed bool) {
	t.Helper()
	var r guestapi.Result
	w := guestapi.Wait{Process: j.handle, Timeout: limit, Brief: true}
	if err := j.m.callWithin(limit+callTime, "Wait", w, &r); err != nil {
		t.Fatal(err)
	}
	return r.Exited, r.Exited && r.Exit != 0
}
