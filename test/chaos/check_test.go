package chaos

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/sim"
)

// evidence is what a migration leaves behind when its processes have ended: records and logs.
type evidence struct {
	records  [2][]journal.Record
	log      [2][]sim.Line
	ends     map[int]int64 // when a process ended, by its PID
	released map[int]bool  // a signal ended its hold on a device
	gone     [2][]int64    // when a kept device ended with its host
}

// collect reads the journals of a migration and the logs of its devices. A missing file
// means that the migration did not reach that step.
func collect(t *testing.T, state, logs [2]string, mig migration.ID) (e evidence) {
	t.Helper()
	for _, s := range []side{source, destination} {
		var err error
		if e.log[s], err = sim.ReadLog(logs[s]); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		path := filepath.Join(state[s], journal.Name(s.role(), mig))
		if e.records[s], err = journal.Read(path); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
	return e
}

// when is a record's time by CLOCK_MONOTONIC, provided that the wall clock was not set.
func when(r journal.Record) int64 {
	return monotonic() - time.Since(r.Time.Round(0)).Nanoseconds()
}

// last is the newest record of a side, None without a journal.
func (e *evidence) last(s side) handoff.Record {
	if n := len(e.records[s]); n > 0 {
		return e.records[s][n-1].Record
	}
	return handoff.None
}

// find returns a side's record of an attempt.
func (e *evidence) find(s side, r handoff.Record, epoch uint64) (journal.Record, bool) {
	i := slices.IndexFunc(e.records[s], func(o journal.Record) bool { return o.Record == r && o.Attempt.Epoch == epoch })
	if i < 0 {
		return journal.Record{}, false
	}
	return e.records[s][i], true
}

// holder is the PID of the process with which a line's device ends, 0 for a kept device.
func holder(l sim.Line) int {
	if l.Kept {
		return 0
	}
	return l.PID
}

// executions are the moments at which a device of the destination began to run its loaded
// state. That is RUNNING after RESUMING: set, or found if the process that set it was
// killed before it could log that. A new or reset device is RUNNING too, without a guest.
// RUNNING_P2P, on the way there, counts as not running yet, as in the engines.
func (e *evidence) executions() (list []sim.Line) {
	loaded := map[int]bool{} // by holder
	for _, l := range e.log[destination] {
		switch {
		case l.Event == "open" && !l.Found, l.Event == "reset":
			loaded[holder(l)] = false
		case l.Err == "" && l.To == "RESUMING":
			loaded[holder(l)] = true
		case l.Err == "" && loaded[holder(l)] && l.To == "RUNNING":
			list = append(list, l)
			loaded[holder(l)] = false
		}
	}
	return list
}

// violations checks the evidence against the invariants, and names the violated ones.
func (e *evidence) violations() (list []string) {
	fail := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	runs := e.executions()
	for _, x := range runs {
		if s := e.sourceState(x.NS); mayRun(s) {
			fail("I1: the destination began to run at %d, when the source was in %s", x.NS, s)
		}
		if !x.Whole {
			fail("I4: the destination runs what is not the source's state, since %d", x.NS)
		}
	}
	e.afterExecution(runs, fail)
	e.copies(runs, fail)
	e.lastCopy(fail)
	e.accepts(runs, fail)
	return append(list, e.order()...)
}

func mayRun(state string) bool {
	return strings.HasPrefix(state, "RUNNING") || strings.HasPrefix(state, "PRE_COPY")
}

// empty reports whether a line is about a device without its guest. Such a device is
// RUNNING, as every new one is. Only the first device of a side has the guest.
func (e *evidence) empty(s side, l sim.Line) bool {
	return l.Event == "open" && !l.Found && l != e.log[s][0]
}

// sourceState is the state of the source's device at a time. It is "" if there was no
// device, or one without a guest. A simulated device that is not kept ends with its
// process, so a device that no process has open does not run.
func (e *evidence) sourceState(at int64) (state string) {
	var last sim.Line
	for _, l := range e.log[source] {
		if l.NS > at {
			break
		}
		last = l
		switch {
		case e.empty(source, l):
			state = ""
		case l.Event == "close": // it changes nothing
		case l.Err == "":
			state = l.To
		}
	}
	if lost, ok := e.lost(source, last); ok && lost <= at {
		return ""
	}
	return state
}

// lost is when a device ended after a line without another one: with its process or, if
// it is kept, with its host.
func (e *evidence) lost(s side, last sim.Line) (at int64, ok bool) {
	if !last.Kept {
		at, ok = e.ends[last.PID]
		return at, ok && last.PID != 0
	}
	i := slices.IndexFunc(e.gone[s], func(g int64) bool { return g >= last.NS })
	if i < 0 {
		return 0, false
	}
	return e.gone[s][i], true
}

// afterExecution is I2: the source never runs again.
func (e *evidence) afterExecution(runs []sim.Line, fail func(string, ...any)) {
	if len(runs) == 0 {
		return
	}
	for _, l := range e.log[source] {
		if l.NS > runs[0].NS && l.Err == "" && l.Event != "close" && !e.empty(source, l) && mayRun(l.To) {
			fail("I2: the source is in %s by %q at %d, the destination has run since %d", l.To, l.Event, l.NS, runs[0].NS)
		}
	}
}

// copies is I3: the source frees its copy only after the destination has run. A copy that
// ends with a killed process does not count.
func (e *evidence) copies(runs []sim.Line, fail func(string, ...any)) {
	for _, l := range e.log[source] {
		if !frees(l) || mayRun(l.From) || e.released[l.PID] {
			continue
		}
		if len(runs) == 0 || l.NS < runs[0].NS {
			fail("I3: the source freed its device in %s at %d, before the destination ran", l.From, l.NS)
		}
	}
}

// lastCopy is I3 where the source's host is lost. A whole copy of the destination may be
// the last one then. It stays until the source reports that it does not need it (rule R6).
// A user who ends the program by a signal may lose a device that only the program has
// open; a signal resets nothing.
func (e *evidence) lastCopy(fail func(string, ...any)) {
	for i, l := range e.log[source] {
		at, lost := e.lost(source, l)
		if next := i + 1; !lost || next < len(e.log[source]) && e.log[source][next].NS < at {
			continue
		}
		for _, d := range e.log[destination] {
			if d.NS > at && frees(d) && d.From == "STOP" && d.Whole && (d.Event == "reset" || !e.released[d.PID]) && !e.takenBack(d.NS) {
				fail("I3h: the destination freed a whole copy at %d, and the source's host was lost at %d", d.NS, at)
			}
		}
	}
}

// takenBack reports whether the source had recorded the end of the attempt of the
// destination's last copy by then.
func (e *evidence) takenBack(by int64) bool {
	var copied uint64
	for _, r := range e.records[destination] {
		if r.Record == handoff.Ready && when(r) < by {
			copied = r.Attempt.Epoch
		}
	}
	return slices.ContainsFunc(e.records[source], func(r journal.Record) bool {
		return (r.Record == handoff.Owner && !r.Sole || r.Record == handoff.Forced) && r.Attempt.Epoch >= copied && when(r) < by
	})
}

// frees reports whether a line ends the content of its device.
func frees(l sim.Line) bool { return l.Event == "reset" || l.Event == "close" && !l.Kept }

// accepts is I5: the destination runs each committed attempt, once, and no other.
func (e *evidence) accepts(runs []sim.Line, fail func(string, ...any)) {
	accepted := 0
	for _, r := range e.records[destination] {
		if r.Record != handoff.Accept {
			continue
		}
		if _, undone := e.find(destination, handoff.Aborted, r.Attempt.Epoch); !undone { // by a start that failed
			accepted++
		}
		c, ok := e.find(source, handoff.Commit, r.Attempt.Epoch)
		if !ok {
			fail("I5: ACCEPT of attempt %d without a COMMIT", r.Attempt.Epoch)
		} else if c.Digest != r.Digest {
			fail("I5: ACCEPT of attempt %d has another digest than COMMIT", r.Attempt.Epoch)
		}
	}
	if len(runs) > 0 && accepted == 0 {
		fail("I5: the destination ran at %d and has no ACCEPT", runs[0].NS)
	}
	if accepted > 1 {
		fail("I5: %d attempts were accepted", accepted)
	}
	times := map[int]int{}
	for _, x := range runs {
		if times[holder(x)]++; times[holder(x)] > 1 {
			fail("I5: one device was run twice")
		}
	}
}

// follows lists the records that may follow a record, in one attempt.
var follows = map[side]map[handoff.Record][]handoff.Record{
	source: {
		handoff.Owner:  {handoff.Owner, handoff.ResumeFailed},
		handoff.Open:   {handoff.Owner, handoff.ResumeFailed, handoff.Commit},
		handoff.Commit: {handoff.Owner, handoff.Done, handoff.Commit},
		handoff.Done:   {handoff.Done},

		handoff.ResumeFailed: {handoff.Owner, handoff.ResumeFailed, handoff.Commit},
	},
	destination: {
		handoff.None:    {handoff.None},
		handoff.Open:    {handoff.Ready, handoff.Aborted},
		handoff.Ready:   {handoff.Accept, handoff.Aborted},
		handoff.Accept:  {handoff.Ready, handoff.Aborted, handoff.Accept, handoff.Running, handoff.Lost}, // the start failed, or is done again
		handoff.Running: {handoff.Running, handoff.Done},
		handoff.Done:    {handoff.Done},
		handoff.Lost:    {handoff.Lost}, // or a person decides, in the next attempt
		handoff.Aborted: {handoff.Aborted},
	},
}

// order checks each journal against the decisions that its side may take, and both against
// each other: the destination never accepted an attempt for good that the source ended
// after COMMIT.
func (e *evidence) order() (list []string) {
	for s, next := range follows {
		for i := 1; i < len(e.records[s]); i++ {
			was, is := e.records[s][i-1], e.records[s][i]
			switch {
			case is.Attempt.Epoch < was.Attempt.Epoch:
				list = append(list, fmt.Sprintf("%v: attempt %d behind %d", s, is.Attempt.Epoch, was.Attempt.Epoch))
			case is.Record == handoff.Forced:
				if was.Record != map[side]handoff.Record{source: handoff.Commit, destination: handoff.Lost}[s] && was.Record != handoff.Ready {
					list = append(list, fmt.Sprintf("%v: FORCED behind %v", s, was.Record))
				}
			case is.Attempt.Epoch > was.Attempt.Epoch:
				if final := was.Record; final == handoff.Commit || final == handoff.Done || final == handoff.Accept || final == handoff.Running {
					list = append(list, fmt.Sprintf("%v: a new attempt behind %v", s, final))
				}
			case !slices.Contains(next[was.Record], is.Record):
				list = append(list, fmt.Sprintf("%v: %v behind %v in attempt %d", s, is.Record, was.Record, is.Attempt.Epoch))
			}
		}
	}
	for i, r := range e.records[source] {
		if i == 0 || r.Record != handoff.Owner || e.records[source][i-1].Record != handoff.Commit {
			continue
		}
		_, ok := e.find(destination, handoff.Aborted, r.Attempt.Epoch)
		if r.Witness != 0 { // the witness, not a record, ended the attempt
			_, accepted := e.find(destination, handoff.Accept, r.Attempt.Epoch)
			ok = !accepted
		}
		if !ok && e.records[destination] != nil {
			list = append(list, fmt.Sprintf("I5: the source took attempt %d back after COMMIT, and no ABORTED was recorded", r.Attempt.Epoch))
		}
	}
	slices.Sort(list)
	return list
}

// TestCheckerFinds: the checker accepts correct evidence and finds each planted violation.
func TestCheckerFinds(t *testing.T) {
	line := func(ns int64, pid int, event, from, to string) sim.Line {
		return sim.Line{NS: ns, PID: pid, Event: event, From: from, To: to, Whole: true}
	}
	kept := func(lines []sim.Line) []sim.Line {
		lines = slices.Clone(lines)
		for i := range lines {
			lines[i].Kept = true
		}
		return lines
	}
	found := func(ns int64, pid int, state string) sim.Line {
		return sim.Line{NS: ns, PID: pid, Event: "open", From: state, To: state, Whole: true, Kept: true, Found: true}
	}
	// restarted is a kept destination that another process found loaded, and ran.
	restarted := func(e *evidence) []sim.Line {
		return append(kept(e.log[destination][:3]), found(5, 3, "STOP"), kept([]sim.Line{line(6, 3, "set", "STOP", "RUNNING")})[0])
	}
	record := func(r handoff.Record, epoch uint64) journal.Record {
		return journal.Record{Entry: handoff.Entry{Record: r, Attempt: migration.Attempt{Epoch: epoch}}}
	}
	// deserted is a destination that discards its copy after the source's host was lost.
	// The source may have recorded OWNER at that time.
	deserted := func(e *evidence, at int64) evidence {
		e.log[source], e.gone[source] = kept(e.log[source][:2]), []int64{5e6}
		e.log[destination] = kept(append(e.log[destination][:3], line(8e6, 2, "reset", "STOP", "RUNNING")))
		e.records[source] = e.records[source][:2]
		e.records[destination] = append(e.records[destination][:3], record(handoff.Aborted, 1))
		if at > 0 {
			r := record(handoff.Owner, 1)
			r.Time = time.Now().Add(time.Duration(at - monotonic()))
			e.records[source] = append(e.records[source], r)
		}
		return *e
	}
	good := func() evidence {
		return evidence{
			ends: map[int]int64{1: 100, 2: 100}, released: map[int]bool{},
			log: [2][]sim.Line{
				{line(1, 1, "open", "RUNNING", "RUNNING"), line(3, 1, "set", "RUNNING", "STOP_COPY"), line(8, 1, "set", "STOP_COPY", "STOP"), line(9, 1, "close", "STOP", "STOP")},
				{line(1, 2, "open", "RUNNING", "RUNNING"), line(2, 2, "set", "STOP", "RESUMING"), line(4, 2, "set", "RESUMING", "STOP"), line(6, 2, "set", "STOP", "RUNNING")},
			},
			records: [2][]journal.Record{
				{record(handoff.Owner, 0), record(handoff.Open, 1), record(handoff.Commit, 1), record(handoff.Done, 1)},
				{record(handoff.None, 0), record(handoff.Open, 1), record(handoff.Ready, 1), record(handoff.Accept, 1)},
			},
		}
	}
	for i, c := range []struct {
		want  string // "" for no violation
		spoil func(*evidence)
	}{
		{"", func(*evidence) {}},
		{"I1", func(e *evidence) { e.log[source] = e.log[source][:1] }},
		{"", func(e *evidence) { e.log[source] = append(e.log[source], line(20, 3, "open", "RUNNING", "RUNNING")) }}, // without the guest
		{"I2", func(e *evidence) {
			e.log[source] = append(e.log[source], line(20, 3, "open", "RUNNING", "RUNNING"), line(21, 3, "set", "RUNNING", "PRE_COPY"))
		}},
		{"I3", func(e *evidence) { e.log[source][3].NS = 5 }},
		{"I4", func(e *evidence) { e.log[destination][3].Whole = false }},
		{"I5: ACCEPT of attempt 1 without", func(e *evidence) { e.records[source] = e.records[source][:2] }},
		{"another digest", func(e *evidence) { e.records[source][2].Digest[0]++ }},
		{"no ACCEPT", func(e *evidence) { e.records[destination] = e.records[destination][:3] }},
		{"2 attempts", func(e *evidence) {
			e.records[source] = append(e.records[source], record(handoff.Commit, 2))
			e.records[destination] = append(e.records[destination], record(handoff.Accept, 2))
		}},
		{"twice", func(e *evidence) {
			e.log[destination] = append(e.log[destination], line(30, 2, "set", "STOP", "RESUMING"), line(31, 2, "set", "STOP", "RUNNING"))
		}},
		{"ACCEPT behind OPEN", func(e *evidence) { e.records[destination] = slices.Delete(e.records[destination], 2, 3) }},
		{"a new attempt behind", func(e *evidence) { e.records[source] = append(e.records[source], record(handoff.Open, 2)) }},
		{"no ABORTED", func(e *evidence) { e.records[source][3] = record(handoff.Owner, 1) }},

		// Devices that end with their process, and kept devices.
		{"", func(e *evidence) { e.log[source], e.ends[1] = e.log[source][:1], 5 }},
		{"I1", func(e *evidence) { e.log[source], e.ends[1] = kept(e.log[source][:1]), 5 }},
		{"I1", func(e *evidence) {
			e.log[source] = kept(append(e.log[source][:1], line(5, 1, "set", "RUNNING", "PRE_COPY"), line(5, 1, "close", "PRE_COPY", "PRE_COPY")))
		}},
		{"", func(e *evidence) { e.log[source], e.ends[1] = kept(e.log[source][:2]), 5 }},
		{"", func(e *evidence) {
			e.log[source] = kept(append(e.log[source][:2], line(5, 1, "close", "STOP_COPY", "STOP_COPY"), found(7, 3, "STOP_COPY")))
		}},
		{"I2", func(e *evidence) { e.log[source] = append(kept(e.log[source]), found(20, 3, "RUNNING")) }},
		{"I3", func(e *evidence) {
			e.log[source] = kept(append(e.log[source][:2], line(5, 1, "reset", "STOP_COPY", "RUNNING")))
		}},
		{"", func(e *evidence) { e.log[destination] = append(kept(e.log[destination]), found(20, 3, "RUNNING")) }},
		{"", func(e *evidence) { e.log[destination] = restarted(e) }},
		{"I1", func(e *evidence) {
			e.log[source] = e.log[source][:1]
			e.log[destination] = restarted(e)
		}},
		{"no ACCEPT", func(e *evidence) {
			e.records[destination] = e.records[destination][:3]
			e.log[destination] = append(kept(e.log[destination][:3]), found(6, 3, "RUNNING")) // set, and killed before it could tell
		}},
		{"twice", func(e *evidence) {
			e.log[destination] = append(restarted(e), kept([]sim.Line{line(20, 4, "set", "STOP", "RESUMING")})...)
			e.log[destination] = append(e.log[destination], found(30, 5, "RUNNING"))
		}},
		{"", func(e *evidence) { // the host is new, and so is its device
			e.records[destination] = e.records[destination][:3]
			e.log[source] = kept(e.log[source])
			e.log[destination] = kept(append(e.log[destination][:3], line(6, 3, "open", "RUNNING", "RUNNING")))
		}},

		// Lost hosts.
		{"", func(e *evidence) { e.log[source], e.gone[source] = kept(e.log[source][:1]), []int64{5} }},
		{"I1", func(e *evidence) { e.log[source], e.gone[source] = kept(e.log[source][:1]), []int64{7} }},
		{"", func(e *evidence) {
			e.log[source] = kept(append(e.log[source][:2], line(5, 3, "open", "RUNNING", "RUNNING"), line(9, 3, "set", "RUNNING", "STOP")))
			e.gone[source] = []int64{4}
		}},
		{"I1", func(e *evidence) {
			e.log[source] = kept(append(e.log[source][:2], line(5, 3, "open", "RUNNING", "RUNNING"), line(5, 3, "set", "RUNNING", "PRE_COPY")))
			e.gone[source] = []int64{4}
		}},
		{"", func(e *evidence) { // LOST, and a person has decided
			e.records[destination] = append(e.records[destination], record(handoff.Lost, 1))
			e.records[source] = append(e.records[source][:3], record(handoff.Forced, 2), record(handoff.Open, 3))
		}},
		{"FORCED behind DONE", func(e *evidence) { e.records[source] = append(e.records[source], record(handoff.Forced, 2)) }},
		{"I3h", func(e *evidence) { *e = deserted(e, 0) }},
		{"I3h", func(e *evidence) { *e = deserted(e, 10e6) }},
		{"", func(e *evidence) { *e = deserted(e, 6e6) }},
		{"I3h", func(e *evidence) { // no signal resets it
			*e = deserted(e, 0)
			e.released[2] = true
		}},
		{"", func(e *evidence) { // it ends with its process, and the program warned its user
			*e = deserted(e, 0)
			last := &e.log[destination][len(e.log[destination])-1]
			last.Event, last.Kept = "close", false
			e.released[2] = true
			e.records[destination] = e.records[destination][:3]
		}},
	} {
		e := good()
		c.spoil(&e)
		found := e.violations()
		if c.want == "" && len(found) > 0 || c.want != "" && !slices.ContainsFunc(found, func(v string) bool { return strings.Contains(v, c.want) }) {
			t.Errorf("case %d: found %q, want %s", i, found, cmp.Or(c.want, "nothing"))
		}
	}
}
