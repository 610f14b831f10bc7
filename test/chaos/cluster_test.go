package chaos

import (
	"cmp"
	"fmt"
	"maps"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/chaos/relay"
	"github.com/migpipe/migpipe/test/port"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// memory is the limit of each program for chunks. slack is the limit for the rest:
// programs, stacks, TLS, QUIC's buffers.
const (
	memory = 8 << 20
	slack  = 64 << 20
)

// cluster is two hosts and the network between them.
type cluster struct {
	t     *testing.T
	dir   string
	bin   string    // of the programs
	state [2]string // directories with journals
	urls  [2]string // of the device, without log and keep
	kept  bool      // the devices outlive their programs, like devices that a VMM has open
	flags [2][]string
	relay *relay.Relay
	seed  uint64
	sc    *scenario

	address string       // of the destination, the same after a restart
	mig     migration.ID // of the current migration, zero before the first
	round   int          // of migrations; each has its own logs and devices

	reviving [2]sync.Mutex  // one at a time restarts a side
	guards   sync.WaitGroup // end with their program
	actions  atomic.Int32   // how many were begun
	doing    atomic.Int32   // how many have not ended
	over     atomic.Bool    // no further action begins

	mu       sync.Mutex  // guards the following fields
	now      [2]*process // the processes that run, or ran last
	all      []*process
	boots    [2]int       // how often a side's host was started again
	released map[int]bool // the PIDs of the processes whose hold on a device a signal ended
	gone     [2][]int64   // when a kept device ended with its host
}

// process is a side's current or last process.
func (w *cluster) process(s side) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now[s]
}

// both are the processes of both sides.
func (w *cluster) both() [2]*process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// stop ends a program that would not end by itself, as an operator does. The program
// frees its devices.
func (w *cluster) stop(p *process) {
	w.mu.Lock()
	w.released[p.cmd.Process.Pid] = true
	w.mu.Unlock()
	p.signal(syscall.SIGTERM)
}

func newCluster(t *testing.T, seed uint64) *cluster {
	dir := t.TempDir()
	if *keep {
		dir, _ = os.MkdirTemp("", "chaos-kept-")
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("see %s", dir)
			} else {
				os.RemoveAll(dir)
			}
		})
	}
	w := &cluster{t: t, dir: dir, bin: shared.bin, seed: seed, sc: &scenario{}, released: map[int]bool{}, urls: [2]string{defaultSource, defaultDestination}}
	for s := range w.state {
		w.state[s] = filepath.Join(dir, side(s).String())
		if err := os.Mkdir(w.state[s], 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(w.witness(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.guards.Wait() // the programs have been killed
		if w.relay != nil {
			w.relay.Close()
		}
	})
	return w
}

// The default devices of a case: their migration takes half a second.
const (
	defaultSource      = "sim:mlx5?size=6MiB&save=24MiB/s&dirty=2MiB/s&content=random"
	defaultDestination = "sim:mlx5"
)

// witness is a directory that both hosts have mounted.
func (w *cluster) witness() string { return filepath.Join(w.dir, "witness") }

// log is the file of a side's device in the current migration.
func (w *cluster) log(s side) string {
	return filepath.Join(w.dir, fmt.Sprintf("%v.%d.log", s, w.round))
}

// keep is the file of a side's kept device.
func (w *cluster) keep(s side) string {
	return filepath.Join(w.dir, fmt.Sprintf("%v.%d.state", s, w.round))
}

func (w *cluster) device(s side) string {
	url := w.urls[s]
	if rest, ok := strings.CutPrefix(url, "file:"); ok {
		return "d=file:" + filepath.Join(w.dir, rest)
	}
	mark := "?"
	if strings.Contains(url, "?") {
		mark = "&"
	}
	url += mark + "log=" + neturl.QueryEscape(w.log(s))
	if w.kept {
		url += "&keep=" + neturl.QueryEscape(w.keep(s))
	}
	return "d=" + url
}

// start runs a side's program.
func (w *cluster) start(s side, points string, args ...string) *process {
	w.t.Helper()
	flags := w.flags[s]
	if w.sc.witness {
		flags = append(slices.Clip(flags), "--in-doubt", "witness", "--witness", "dir:"+w.witness())
	}
	p := start(w.t, s, w.bin, points, w.wrap(s), slices.Concat(w.args(s, w.state[s]), flags, args)...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now[s] = p
	w.all = append(w.all, p)
	return p
}

// revive starts a side's killed program again with the same command line, as a service
// manager does. The program gets no hint that this is a restart.
func (w *cluster) revive(s side) {
	if s == destination {
		w.receive("", "--continue").again = true
	} else {
		w.send("", "--continue").again = true
	}
}

// last is a side's newest record of the current migration.
func (w *cluster) last(s side) handoff.Record {
	w.findMigration()
	all, err := journal.Read(filepath.Join(w.state[s], journal.Name(s.role(), w.mig)))
	if err != nil || len(all) == 0 {
		return handoff.None
	}
	return all[len(all)-1].Record
}

// loseHost does what the death of a host does: its next kernel has another boot id, and a
// kept device is lost.
func (w *cluster) loseHost(s side) {
	if !w.sc.losesHost() {
		w.t.Errorf("the name of %q does not say that it loses a host", w.sc.name)
	}
	w.mu.Lock()
	w.boots[s]++
	boot := fmt.Sprintf("%08d-0000-4000-8000-%012d\n", w.boots[s], s)
	w.mu.Unlock()
	if err := os.WriteFile(w.bootID(s), []byte(boot), 0o644); err != nil {
		w.t.Error(err)
	}
	if !w.kept {
		return // the device ended with its process
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	os.Remove(w.keep(s) + ".new")
	if err := os.Remove(w.keep(s)); err != nil {
		w.t.Error(err)
	}
	w.gone[s] = append(w.gone[s], monotonic())
}

// runBeside runs a side's program without making it the side's current process.
func (w *cluster) runBeside(s side, state string, args ...string) *process {
	w.t.Helper()
	return start(w.t, s, w.bin, "", nil, slices.Concat(w.args(s, state), args)...)
}

func (w *cluster) args(s side, state string) []string {
	peer := 1 - s
	if w.sc.wrong[s] {
		peer = s
	}
	args := []string{"--json", "--device", w.device(s), "--peer", shared.ids[peer], "--identity", s.key(),
		"--state-dir", state, "--memory", fmt.Sprint(memory), "--chunk-size", "256KiB", "--reconnect-for", "5s"}
	if s == source {
		args = append(args, "--to", w.relay.Addr(), "--downtime-target", "10s", "--on-limit", "force")
	}
	return append(args, shared.volatile...)
}

func (w *cluster) bootID(s side) string { return filepath.Join(w.dir, s.String()+".boot") }

// wrap returns the command that starts a program with a full disk, or on a restarted host.
// The command has its own name space of mounts, which ends with it.
func (w *cluster) wrap(s side) []string {
	w.mu.Lock()
	rebooted := w.boots[s] > 0
	w.mu.Unlock()
	switch {
	case rebooted:
		return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, w.bootID(s)}
	case w.sc.full != nil && *w.sc.full == s:
		return []string{"unshare", "--mount", "sh", "-c",
			`mount -t tmpfs -o size=4k,mode=700 none "$0" && head -c 4096 /dev/zero >"$0"/full.log && exec "$@" --volatile-state`, w.state[s]}
	}
	return nil
}

// receive runs mig-recv, always at one address.
func (w *cluster) receive(points string, args ...string) *process {
	w.t.Helper()
	if w.address == "" {
		w.address = port.Own(w.t)
	}
	p := w.start(destination, points, append([]string{"--listen", w.address}, args...)...)
	p.await(w.t, "listening")
	if w.relay == nil {
		var err error
		if w.relay, err = relay.Listen(w.address, w.seed); err != nil {
			w.t.Fatal(err)
		}
	}
	return p
}

// send runs mig-send.
func (w *cluster) send(points string, args ...string) *process {
	w.t.Helper()
	return w.start(source, points, args...)
}

// settle waits until nothing more happens: both programs have ended, or the destination
// waits for a source that is gone. A program that stays in doubt to hold its device gets
// a signal once the other program has nothing more to report.
func (w *cluster) settle() {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	asked, told := map[*process]bool{}, map[*process]bool{}
	for ; time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		begun := w.actions.Load()
		if w.doing.Load() > 0 {
			continue // a program may be about to be started again
		}
		open := 0
		now := w.both()
		for s, p := range now {
			if p == nil || !p.runs() {
				continue
			}
			other := now[1-s]
			waits := side(s) == destination && w.waits(p)
			if waits && !w.sc.orphan {
				continue // of use to the next migration
			}
			open++
			quiet := other == nil || !other.runs() || other.find("held") != nil || side(s) == source && w.waits(other)
			switch held := p.find("held") != nil; {
			case waits && !asked[p]:
				asked[p] = true
				w.stop(p)
			case held && quiet && !told[p]:
				told[p] = true
				w.stop(p)
			}
		}
		if open == 0 && w.actions.Load() == begun {
			return
		}
	}
	for _, p := range w.both() {
		w.t.Errorf("%v", p)
	}
	w.t.Fatal("the programs do not end")
}

// waits reports whether a destination waits in vain. Either mig-send is gone, or it holds
// a device that it is in doubt about; and that was long ago, unless the destination has
// served no source since its restart. No silence ends its wait in READY (rule R5), nor
// its wait for a first source, or for the next one after a refusal.
func (w *cluster) waits(p *process) bool {
	s := w.process(source)
	if s == nil { // the test drives it
		return p.find("refused") != nil
	}
	quiet := p.again && !p.engaged()
	if !s.runs() {
		quiet = quiet || monotonic()-s.exited > int64(transport.IdleTimeout+time.Second)
	} else if held := s.find("held"); held != nil {
		quiet = quiet || monotonic()-held.at > int64(transport.IdleTimeout+time.Second)
	} else {
		return false
	}
	last := w.last(destination)
	return quiet && (!p.engaged() || last == handoff.None || last == handoff.Ready || p.find("refused") != nil)
}

// findMigration finds the migration of the last run of mig-send: its journal is the newest
// by the file's time. The programs' own clock may be wrong.
func (w *cluster) findMigration() {
	w.mu.Lock()
	defer w.mu.Unlock()
	paths, err := journal.List(w.state[source], journal.Source)
	if err != nil {
		w.t.Error(err)
	}
	var last time.Time
	for _, path := range paths {
		all, err := journal.Read(path)
		info, err2 := os.Stat(path)
		if err := cmp.Or(err, err2); err != nil {
			w.t.Error(err)
			continue
		}
		if at := info.ModTime(); len(all) > 0 && at.After(last) {
			w.mig, last = all[0].Attempt.Mig, at
		}
	}
}

// evidence collects the evidence of the current migration.
func (w *cluster) evidence() evidence {
	w.t.Helper()
	e := collect(w.t, w.state, [2]string{w.log(source), w.log(destination)}, w.mig)
	w.mu.Lock()
	defer w.mu.Unlock()
	e.ends, e.released, e.gone = map[int]int64{}, maps.Clone(w.released), w.gone
	for _, p := range w.all {
		if !p.runs() {
			e.ends[p.cmd.Process.Pid] = p.exited
		}
	}
	return e
}

// check checks the invariants that hold after any fault.
func (w *cluster) check() evidence {
	w.t.Helper()
	w.findMigration()
	for _, p := range w.all {
		if !p.runs() {
			w.checkProcess(p)
		}
	}
	e := w.evidence()
	for _, v := range e.violations() {
		w.t.Errorf("%s", v)
	}
	w.checkFiles()
	if w.t.Failed() {
		for _, p := range w.now {
			w.t.Logf("%v", p)
		}
		for s := range e.log {
			for _, r := range e.records[s] {
				w.t.Logf("%v journal: %v of attempt %d, %s", side(s), r.Record, r.Attempt.Epoch, r.Why.Text)
			}
			for _, l := range e.log[s] {
				w.t.Logf("%v device: %+v", side(s), l)
			}
		}
	}
	return e
}

// checkProcess: one done event, at the end, with the exit code; bounded memory;
// no process left behind.
func (w *cluster) checkProcess(p *process) {
	w.t.Helper()
	told := p.told()
	done := 0
	for _, e := range told {
		if e.Event == "done" {
			done++
		}
	}
	last := len(told) - 1
	switch {
	case p.killed.Load() && done > 1, !p.killed.Load() && done != 1:
		w.t.Errorf("%v: %d done events", p, done)
	case done == 1 && told[last].Event != "done":
		w.t.Errorf("%v: %q follows done", p, told[last].Event)
	case done == 1 && !p.killed.Load() && told[last].Exit != p.exit():
		w.t.Errorf("%v: the done event has exit %d", p, told[last].Exit)
	}
	totals.weigh(p.peak)
	if p.peak > memory+slack {
		w.t.Errorf("%v: %d MiB resident, limit %d", p, p.peak>>20, (memory+slack)>>20)
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, 0); err == nil {
		w.t.Errorf("%v: a process of its group is left", p)
	}
}

// checkFiles: only journals, registers, logs and the devices' files are left.
func (w *cluster) checkFiles() {
	w.t.Helper()
	filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			w.t.Error(err)
			return nil
		}
		name := d.Name()
		if w.anyKilled() && name == "."+journal.TimesFile+".new" {
			return nil
		}
		known := d.IsDir() || name == journal.TimesFile || filepath.Dir(path) == w.witness() || w.anyKilled() && strings.HasSuffix(name, ".state.new") || strings.HasSuffix(name, ".log") || strings.HasSuffix(name, ".state") || strings.HasSuffix(name, ".boot") ||
			strings.HasSuffix(name, "."+journal.Source.String()) || strings.HasSuffix(name, "."+journal.Destination.String())
		if !known || strings.HasPrefix(name, ".") {
			w.t.Errorf("%s is left behind", path)
		}
		return nil
	})
}

// anyKilled: a killed program may leave half of a file.
func (w *cluster) anyKilled() bool {
	return slices.ContainsFunc(w.all, func(p *process) bool { return p.killed.Load() })
}

// migrateAgain is row 70: after any fault, a further migration succeeds. It migrates the
// same attempt's device if the source still has it. It returns the outcome of the first one.
func (w *cluster) migrateAgain() (outcome string) {
	w.t.Helper()
	w.flags = [2][]string{}
	if !w.kept {
		w.urls = [2]string{defaultSource, defaultDestination}
	}
	if w.relay != nil {
		w.relay.Set(func(l *relay.Link) { *l = relay.Link{} })
	}
	w.askAgain()
	var again []string
	switch e := w.evidence(); e.last(source) {
	case handoff.Commit:
		outcome = "in doubt"
		w.resolve()
	case handoff.Done:
		outcome = "destination runs"
		w.round++
	default:
		outcome = "source runs"
		if e.records[source] != nil {
			again = []string{"--migration", w.mig.String()}
		}
		if e.sole() {
			w.endCopy()
		}
	}
	d := w.process(destination)
	if d != nil && d.runs() && again == nil { // its log is of the earlier one
		w.stop(d)
		for d.runs() && d.find("held") == nil {
			time.Sleep(time.Millisecond)
		}
		if d.runs() { // a copy that stays
			w.stop(d)
		}
		d.wait(w.t)
	}
	if d == nil || !d.runs() {
		d = w.receive("", "--continue")
	}
	s := w.send("", again...)
	w.settle()
	if s.exit() != 0 || d.exit() != 0 {
		w.t.Errorf("a second migration ends with %d and %d: %v %v", s.exit(), d.exit(), s, d)
	}
	after := w.check()
	if len(after.executions()) != 1 {
		w.t.Errorf("the second migration has started the destination %d times", len(after.executions()))
	}
	return outcome
}

// sole reports whether the destination has a whole copy that no start at the source ends.
func (e *evidence) sole() bool {
	at := e.records[source]
	return len(at) > 0 && at[len(at)-1].Sole && e.last(destination) == handoff.Ready
}

// endCopy has a person end the destination's copy: the source's devices run, or were reset.
func (w *cluster) endCopy() {
	w.t.Helper()
	if d := w.process(destination); d != nil && d.runs() {
		d.kill()
		d.wait(w.t)
	}
	host, err := os.Hostname()
	if err != nil {
		w.t.Fatal(err)
	}
	args := slices.Concat([]string{"resolve", w.mig.String(), "--give-up", "--why", "a test", "--confirm", host,
		"--state-dir", w.state[destination]}, shared.volatile)
	if out, err := exec.Command(destination.program(w.bin), args...).CombinedOutput(); err != nil {
		w.t.Errorf("resolve: %v: %s", err, out)
	}
}

// askAgain has a source in doubt ask once more, now without a fault in its way. Where only
// a person may do that, it names the migration, as a person does.
func (w *cluster) askAgain() {
	w.t.Helper()
	if w.last(source) != handoff.Commit {
		return
	}
	which := []string{"--migration", w.mig.String()}
	if d := w.process(destination); d == nil || !d.runs() {
		w.receive("", which...).again = true
	}
	w.send("", append(which, "--doubt-for", "3s")...).again = true
	w.settle()
	w.check()
}

// resolve has a person decide: the destination has reported that the accepted devices are
// lost, or that it does not know the migration. No new migration begins before that.
func (w *cluster) resolve() {
	w.t.Helper()
	other := w.runBeside(source, w.state[source])
	other.wait(w.t)
	if other.exit() != 2 {
		w.t.Errorf("in doubt, with a new migration: exit %d, want 2: %v", other.exit(), other)
	}
	w.round++
	host, err := os.Hostname()
	if err != nil {
		w.t.Fatal(err)
	}
	args := slices.Concat([]string{"resolve", w.mig.String(), "--resume-here", "--peer-is-fenced", "--why", "a test", "--confirm", host,
		"--state-dir", w.state[source]}, shared.volatile)
	if out, err := exec.Command(source.program(w.bin), args...).CombinedOutput(); err != nil {
		w.t.Errorf("resolve: %v: %s", err, out)
	}
	if got := w.last(source); got != handoff.Forced {
		w.t.Errorf("after resolve the record is %v", got)
	}
}
