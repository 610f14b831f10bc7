package handoff

import (
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// maxFuzz bounds a sequence of events.
const maxFuzz = 4096

// Bits of a fuzzed event beside its kind.
const (
	otherEpoch  = 1 << 5
	strangerJID = 1 << 6
	otherDigest = 1 << 7
)

// fuzzLocal and fuzzMessages are the kinds of fuzzed events: the low five bits of a
// byte. The committed sequences count by place, so that new ones go to the end, and
// messages stay from 16 on.
var (
	fuzzLocal = []string{"begin", "offered", "refused", "drained", "loaded", "failed", "lost", "interrupt",
		"the next record fails", "resumed", "not resumed", "started", "start failed, kept", "start failed, dropped", "start failed, unclear", "reset"}
	fuzzMessages = []string{"WELCOME", "READY", "COMMIT", "RUNNING", "DECLINED", "NOT_STARTED", "CANCEL", "ABORT", "FIN", "QUERY",
		"overdue", "the register is the source's", "the register is the destination's", "the witness is silent", "has a witness", "FORCED"}
)

// fuzzed drives one machine as the engines do: an action's result comes only after
// the action, and a record may fail.
type fuzzed struct {
	t        *testing.T
	step     func(Event) []Action
	check    func(done []Action, a Action) // a is about to be taken, after done
	waiting  []Action                      // whose results are awaited
	fail     bool                          // the next record
	witness  Register                      // from now on
	finished int
}

func (f *fuzzed) take(ev Event) {
	var done []Action
	for _, a := range f.step(ev) {
		if _, ok := a.(Append); ok && f.fail {
			f.fail = false
			f.take(Unrecorded{})
			return
		}
		f.check(done, a)
		done = append(done, a)
		switch a.(type) {
		case Halt, Resume, Start, Reset, AskWitness, AskApproval:
			f.waiting = append(f.waiting, a)
		case Finish:
			f.finished++
			if f.finished > 1 {
				f.t.Fatal("finished twice")
			}
		}
	}
}

// play takes one event for each byte.
func (f *fuzzed) play(script []byte, journal migration.JournalID) {
	for _, b := range script[:min(len(script), maxFuzz)] {
		at, from, digest := attempt(1), journal, worldDigest
		if b&otherEpoch != 0 {
			at = attempt(2)
		}
		if b&strangerJID != 0 {
			from = otherJournal
		}
		if b&otherDigest != 0 {
			digest = migration.StreamDigest{0xbb}
		}
		kinds := append(fuzzLocal[:len(fuzzLocal):len(fuzzLocal)], fuzzMessages...)
		name := kinds[b&31]
		ev := messageEvent(name, at, from, digest)
		if ev == nil {
			ev = f.local(name, at, digest)
		}
		if ev != nil {
			f.take(ev)
		}
	}
}

// local is a local event, nil where it cannot come now.
func (f *fuzzed) local(name string, at migration.Attempt, digest migration.StreamDigest) Event {
	switch name {
	case "begin":
		return Begin{}
	case "offered":
		return Offered{at, f.witness}
	case "overdue":
		return Overdue{}
	case "refused":
		return Refused{Attempt: at, Why: Failed{Code: transport.CodeIncompatible}}
	case "drained":
		return Drained{digest}
	case "loaded":
		return Loaded{digest}
	case "failed":
		return Failed{Code: transport.CodeDevice}
	case "lost":
		return Unreachable{}
	case "interrupt":
		return Interrupt{}
	case "the next record fails":
		f.fail = true
		return nil
	case "has a witness":
		f.witness = worldWitness
		return nil
	}
	return f.result(name)
}

// result is the result of the action that was taken longest ago, if the name is of
// one that it can have.
func (f *fuzzed) result(name string) (ev Event) {
	if len(f.waiting) == 0 {
		return nil
	}
	switch f.waiting[0].(type) {
	case Halt:
		ev = map[string]Event{"resumed": Halted{}, "not resumed": Halted{Failed: true}}[name]
	case Resume:
		ev = map[string]Event{"resumed": Resumed{Back}, "not resumed": Resumed{SomeRan}, "start failed, kept": Resumed{NoneRan}, "started": Resumed{Unheard}}[name]
	case Start:
		ev = map[string]Event{"started": Started{}, "start failed, kept": NotStarted{Copy: Kept},
			"start failed, dropped": NotStarted{Copy: Dropped}, "start failed, unclear": NotStarted{Copy: Unclear}}[name]
	case Reset:
		ev = map[string]Event{"reset": WasReset{}, "not resumed": WasReset{Failed: true}}[name]
	case AskApproval:
		ev = map[string]Event{"started": Approved{}, "not resumed": Failed{Code: transport.CodeCancelled}}[name]
	case AskWitness:
		ev = map[string]Event{"the register is the source's": Witnessed{SourceSide}, "the register is the destination's": Witnessed{DestSide},
			"the witness is silent": Witnessed{}}[name]
	}
	if ev != nil {
		f.waiting = f.waiting[1:]
	}
	return ev
}

// recorded reports whether a record was appended, newest, before an action.
func recorded(done []Action, r Record) bool {
	for i := len(done) - 1; i >= 0; i-- {
		if a, ok := done[i].(Append); ok {
			return a.Entry.Record == r
		}
	}
	return false
}

func sends[M wire.Message](a Action) (m M, ok bool) {
	if s, is := a.(Send); is {
		m, ok = s.Message.(M)
	}
	return m, ok
}

// FuzzSource: in any order of events, the source sends COMMIT only once
// that is recorded, and approved where it has an owner who decides, and then has its
// devices back only by the word of that destination.
func FuzzSource(f *testing.F) {
	f.Add([]byte{0, 16, 3, 17, 19})            // to the end
	f.Add([]byte{0, 16, 3, 17, 20, 9})         // declined in doubt
	f.Add([]byte{30, 0, 16, 3, 17, 26, 27, 9}) // the witness gives the devices back
	f.Add([]byte{30, 0, 16, 3, 17, 6, 28})     // lost to the destination
	f.Add([]byte{0, 16, 3, 17, 17, 11, 19})    // approved, where a VMM is asked
	f.Add([]byte{0, 16, 3, 17, 10, 9})         // not approved
	f.Add([]byte{0, 16, 3, 7, 9, 9})           // cancelled after the last END
	f.Add([]byte{0, 16, 3, 7, 9, 12})          // and no device runs again
	f.Add([]byte{0, 16, 3, 7, 10})             // or none is halted
	play := func(t *testing.T, script []byte, external bool) {
		s, before, ev := NewSource(attempt(1), sourceJournal), Source{}, Event(nil)
		s.External = external
		e := &fuzzed{t: t}
		e.step = func(next Event) (actions []Action) {
			if s.Record == Owner {
				s.Witness = e.witness
			}
			before, ev = s, next
			to, all := takeSource(s, next)
			s, actions = to, mixed(all)
			declined, ok := ev.(*wire.Declined)
			if !before.MayResume() && s.MayResume() && (ev != (Witnessed{SourceSide}) || !before.Asking) && (!ok || declined.Journal != before.PeerJournal || declined.Attempt != before.Attempt) {
				t.Fatalf("the right to resume came back by %+v", ev)
			}
			return actions
		}
		e.check = func(done []Action, a Action) {
			_, commits := sends[*wire.Commit](a)
			switch a := a.(type) {
			case Release:
				if !recorded(done, Done) {
					t.Fatal("released before DONE was recorded")
				}
			case Resume:
				if !s.MayResume() {
					t.Fatalf("resumed from %v", s.Record)
				}
			case Finish:
				if a.Outcome == migration.Committed && s.Record != Done || a.Outcome == migration.Aborted && !s.MayResume() || a.Outcome == migration.InDoubt && s.Record != Commit {
					t.Fatalf("%v with %v", a.Outcome, s.Record)
				}
			}
			if _, aborts := sends[*wire.Abort](a); aborts && before.Phase >= SourceWaiting && ev != (Resumed{Back}) && !(ev == Unrecorded{} && before.Phase == SourceEnded) {
				t.Fatalf("ABORT was sent by %+v in %v", ev, before.Phase)
			}
			if commits && !recorded(done, Commit) && before.Record != Commit {
				t.Fatal("COMMIT was sent before it was recorded")
			}
			if rec, ok := a.(Append); ok && rec.Entry.Record == Commit && external && (ev != (Approved{}) || before.Phase != SourceDeciding) {
				t.Fatalf("committed by %+v in %v", ev, before.Phase)
			}
		}
		e.play(script, destJournal)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		play(t, script, false)
		play(t, script, true)
	})
}

// FuzzDest: in any order of events, the destination starts only by a
// COMMIT for what it has recorded as READY, and promises nothing that is not
// recorded.
func FuzzDest(f *testing.F) {
	f.Add([]byte{1, 4, 18, 11, 24})         // to the end
	f.Add([]byte{1, 4, 22, 15})             // cancelled
	f.Add([]byte{30, 1, 4, 18, 29, 28, 11}) // the witness was silent, then agreed
	f.Add([]byte{30, 1, 4, 18, 27, 15})     // lost to the source
	f.Fuzz(func(t *testing.T, script []byte) {
		d, before, ev := NewDest(destJournal), Dest{}, Event(nil)
		e := &fuzzed{t: t}
		e.step = func(next Event) (actions []Action) {
			before, ev = d, next
			to, all := takeDest(d, next)
			d, actions = to, mixed(all)
			if d.MaxEpoch < before.MaxEpoch {
				t.Fatalf("the highest epoch fell from %d to %d", before.MaxEpoch, d.MaxEpoch)
			}
			return actions
		}
		e.check = func(done []Action, a Action) {
			if _, ok := a.(Start); ok {
				m, commit := ev.(*wire.Commit)
				if before.Asking && ev == (Witnessed{DestSide}) && before.Record == Ready && recorded(done, Accept) {
					return
				}
				if before.Witness != 0 || !commit || m.Attempt != before.Attempt || m.Journal != destJournal || m.Digest != before.Digest || before.Record != Ready || !recorded(done, Accept) {
					t.Fatalf("started by %+v from %v", ev, before.Record)
				}
			}
			if _, ok := sends[*wire.Ready](a); ok && !recorded(done, Ready) && before.Record != Ready {
				t.Fatal("READY was sent before it was recorded")
			}
			if _, ok := sends[*wire.Running](a); ok && d.Record != Accept && d.Record != Running && d.Record != Done {
				t.Fatalf("RUNNING was sent with %v", d.Record)
			}
			if m, ok := sends[*wire.Declined](a); ok && m.Attempt == d.Attempt && !recorded(done, Aborted) && before.Record != Aborted {
				t.Fatal("DECLINED was sent before ABORTED was recorded")
			}
			if rec, ok := a.(Append); ok && rec.Entry.Record == Aborted && before.Record == Accept {
				if _, failed := ev.(NotStarted); !failed {
					t.Fatalf("ACCEPT was taken back by %+v", ev)
				}
			}
		}
		e.play(script, destJournal)
	})
}
