package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/chaos/relay"
	"github.com/migpipe/migpipe/test/netns"
	"github.com/migpipe/migpipe/transport/handoff"
)

// scenario is a migration with its faults and its expected ends. In addition, every
// invariant has to hold, and a second migration has to succeed.
type scenario struct {
	row   int // of the hand-off's table of faults, 0 for a case outside of it
	name  string
	quick bool // CI runs it too

	// elsewhere is the test that covers a row that processes cannot show.
	elsewhere string

	urls    [2]string // of the devices, the default ones where empty
	flags   [2][]string
	link    relay.Link // both ways, from the beginning
	faults  []fault
	spec    [2]string // more failpoints, without an action of the test
	full    *side     // whose disk is full
	wrong   [2]bool   // a side expects another peer than it meets
	witness bool      // both sides have one
	orphan  bool      // the next migration cannot use the destination, and the test stops it
	kept    bool      // the devices outlive their programs
	jumps   bool      // the wall clock jumps in both programs
	want    [2]end
	owner   string // the side that has the device, "" where that depends

	before func(*cluster)           // with the destination up
	drive  func(*cluster)           // in place of mig-send
	after  func(*cluster, evidence) // with the evidence
}

// fault is an action on a program that has stopped itself at a point.
type fault struct {
	at   string // POINT or POINT@N, see internal/failpoint
	do   action
	also bool // the point need not be reached
}

func (f fault) side() side {
	if strings.HasPrefix(f.at, source.String()) {
		return source
	}
	return destination
}

// spec encodes the fault for the program's environment.
func (f fault) spec() string {
	point, n, counted := strings.Cut(f.at, "@")
	if !counted {
		n = "1"
	}
	return point + "=stop@" + n
}

// action runs while the program is stopped at a point. The program continues afterwards.
type action func(*cluster, *process)

func kill(_ *cluster, p *process) { p.kill() }

func terminate(w *cluster, p *process) { w.stop(p) }

func rebind(w *cluster, _ *process) { w.relay.Rebind() }

// restarts kills a program and starts it again after a time. The guest, and a kept device,
// continue without it.
func restarts(after time.Duration) action {
	return func(w *cluster, p *process) { w.restart(p, after, false) }
}

// reboots does what the loss of its host does to a program: a kept device is lost too.
func reboots(after time.Duration) action {
	return func(w *cluster, p *process) { w.restart(p, after, true) }
}

// toPeer applies an action to the other side's program.
func toPeer(do action) action {
	return func(w *cluster, p *process) {
		if other := w.process(1 - p.side); other != nil {
			do(w, other)
		}
	}
}

// each runs one action after the other.
func each(actions ...action) action {
	return func(w *cluster, p *process) {
		for _, do := range actions {
			do(w, p)
		}
	}
}

// restart ignores a process that has ended.
func (w *cluster) restart(p *process, after time.Duration, host bool) {
	w.reviving[p.side].Lock()
	defer w.reviving[p.side].Unlock()
	if p != w.process(p.side) || !p.runs() {
		return
	}
	p.kill()
	<-p.done
	if host {
		w.loseHost(p.side)
	}
	time.Sleep(after)
	if (host || !w.kept) && p.side == source && w.last(source) == handoff.Done {
		return // nothing is left to continue: the new device would begin a new migration
	}
	w.revive(p.side)
}

// pause leaves the program stopped for a time.
func pause(d time.Duration) action {
	return func(*cluster, *process) { time.Sleep(d) }
}

// cut loses every datagram for a time, or for good if d is 0.
func cut(d time.Duration, directions ...relay.Direction) action {
	return func(w *cluster, _ *process) {
		w.relay.Cut(directions...)
		if d > 0 {
			time.AfterFunc(d, func() { w.relay.Heal() })
		}
	}
}

// narrow reduces the MTU of the path to 1280, without an ICMP message.
func narrow(w *cluster, _ *process) { w.relay.Set(func(l *relay.Link) { l.Most = 1252 }) }

// end is the expected end of a program.
type end struct {
	outcome string // of the done event; "killed" for none
	exit    int
}

var (
	committed = end{"committed", 0}
	killed    = end{"killed", -1}
	held      = end{"in-doubt", 11}
	waiting   = end{"waits", -1} // for a source, and for the next migration
	anyEnd    = end{}            // only the invariants count
)

func aborted(exit int) end { return end{"aborted", exit} }

// inject runs the faults of one side as they become due, until the program ends. Once the
// scenario is over, the program passes the points that it still reaches.
func (w *cluster) inject(p *process, faults []fault) {
	for _, f := range faults {
		for !p.stopped() {
			if !p.runs() {
				if !f.also && !w.over.Load() {
					w.t.Errorf("%v was not reached: %v", f.at, p)
				}
				return
			}
			time.Sleep(time.Millisecond)
		}
		w.actions.Add(1)
		w.doing.Add(1)
		if !w.over.Load() {
			f.do(w, p)
		}
		w.doing.Add(-1)
		p.signal(syscall.SIGCONT) // has taken effect when it returns: if the process is stopped then, it is at the next point
	}
}

func points(faults []fault, s side) (mine []fault, spec string) {
	var specs []string
	for _, f := range faults {
		if f.side() == s {
			mine, specs = append(mine, f), append(specs, f.spec())
		}
	}
	return mine, strings.Join(specs, ";")
}

// run runs the scenario and returns the outcome of the migration.
func (sc *scenario) run(t *testing.T, seed uint64) string {
	w := newCluster(t, seed)
	if sc.jumps {
		w.bin = jumping(t)
	}
	for s, url := range sc.urls {
		if url != "" {
			w.urls[s] = url
		}
	}
	w.sc, w.flags, w.kept = sc, sc.flags, sc.kept
	theirs, spec := points(sc.faults, destination)
	d := w.receive(spec + ";" + sc.spec[destination])
	w.relay.Set(func(l *relay.Link) { *l = sc.link })
	if sc.before != nil {
		sc.before(w)
	}
	w.guards.Go(func() { w.inject(d, theirs) })
	if sc.drive != nil {
		sc.drive(w)
	} else {
		ours, spec := points(sc.faults, source)
		s := w.send(spec + ";" + sc.spec[source])
		w.guards.Go(func() { w.inject(s, ours) })
	}
	w.settle()
	w.over.Store(true)
	w.checkEnds(sc.want)
	e := w.check()
	if sc.after != nil {
		sc.after(w, e)
	}
	w.sc = &scenario{} // the next migration has no faults
	outcome := w.migrateAgain()
	if sc.owner != "" && outcome != sc.owner {
		t.Errorf("%s, want %s", outcome, sc.owner)
	}
	return outcome
}

func (w *cluster) checkEnds(want [2]end) {
	w.t.Helper()
	for s, p := range w.now {
		if p == nil || want[s] == anyEnd {
			continue
		}
		got := end{"killed", p.exit()}
		if p.runs() {
			got.outcome = "waits"
		}
		if done := p.find("done"); done != nil {
			got.outcome = done.Outcome
		}
		if got != want[s] {
			w.t.Errorf("%v ends with %+v, want %+v: %v", side(s), got, want[s], p)
		}
	}
}

// totals counts the cases by outcome.
var totals tally

type tally struct {
	mu       sync.Mutex
	cases    int
	outcomes map[string]int
	peak     uint64 // bytes resident in any process at the most
}

func (c *tally) weigh(bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peak = max(c.peak, bytes)
}

// add counts a case and prints its line.
func (c *tally) add(row int, name, outcome string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outcomes == nil {
		c.outcomes = map[string]int{}
	}
	c.cases++
	c.outcomes[outcome]++
	label := "      "
	if row > 0 {
		label = fmt.Sprintf("row %2d", row)
	}
	fmt.Printf("chaos: %s  %-72s %-18s %5.1f s\n", label, name, outcome, took.Seconds())
}

func (c *tally) print() {
	if c.cases == 0 {
		return
	}
	fmt.Printf("chaos: %d cases:", c.cases)
	names := make([]string, 0, len(c.outcomes))
	for o := range c.outcomes {
		names = append(names, o)
	}
	slices.Sort(names)
	for _, o := range names {
		fmt.Printf(" %d %s;", c.outcomes[o], o)
	}
	fmt.Printf(" no process had more than %d MiB, limit %d\n", c.peak>>20, (memory+slack)>>20)
}

// losesHost reports whether the loss of a host is among the faults: its name says so.
func (sc *scenario) losesHost() bool {
	return strings.Contains(sc.name, "reboot") || strings.Contains(sc.name, "'s host ")
}

// test runs the scenario as a subtest, if it is to run.
func (sc *scenario) test(t *testing.T, seed uint64) {
	if !*all && !sc.quick && sc.elsewhere == "" {
		return
	}
	t.Run(fmt.Sprintf("%02d/%s", sc.row, strings.ReplaceAll(sc.name, " ", "-")), func(t *testing.T) {
		if sc.elsewhere != "" {
			totals.add(sc.row, sc.name+": in "+sc.elsewhere, "elsewhere", 0)
			t.Skip("in " + sc.elsewhere)
		}
		if sc.losesHost() || sc.full != nil { // another boot id, or a file system of its own
			netns.NeedMounts(t)
		}
		t.Parallel()
		began := time.Now()
		outcome := "FAILED"
		defer func() {
			if t.Failed() {
				outcome = "FAILED"
			}
			totals.add(sc.row, sc.name, outcome, time.Since(began))
		}()
		outcome = sc.run(t, seed)
	})
}
