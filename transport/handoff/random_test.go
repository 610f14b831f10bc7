package handoff

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// engine drives one machine as reader and writer do, with no devices at all.
type engine struct {
	t        *rapid.T
	step     func(Event) []Action
	results  []Event // of actions that were taken
	finished []migration.Outcome
	released bool
}

// take feeds an event and takes the actions, the journal being what it may.
func (e *engine) take(ev Event) {
	for _, a := range e.step(ev) {
		switch a.(type) {
		case Append:
			if rapid.IntRange(0, 9).Draw(e.t, "journal") == 0 {
				e.take(Unrecorded{})
				return
			}
		case Resume:
			if e.released {
				e.t.Fatal("resumed after the release")
			}
			e.results = append(e.results, Resumed{rapid.SampledFrom([]Return{Back, Unheard, NoneRan, SomeRan}).Draw(e.t, "resume")})
		case Halt:
			e.results = append(e.results, Halted{Failed: rapid.Bool().Draw(e.t, "halt fails")})
		case Reset:
			e.results = append(e.results, WasReset{Failed: rapid.Bool().Draw(e.t, "reset fails")})
		case Start:
			e.results = append(e.results, rapid.SampledFrom([]Event{Started{}, NotStarted{Copy: Kept},
				NotStarted{Copy: Dropped}, NotStarted{Copy: Unclear}}).Draw(e.t, "start"))
		case AskApproval:
			e.results = append(e.results, rapid.SampledFrom([]Event{Approved{}, Failed{Code: transport.CodeCancelled}}).Draw(e.t, "approval"))
		case AskWitness:
			e.results = append(e.results, Witnessed{rapid.SampledFrom([]Side{0, SourceSide, DestSide}).Draw(e.t, "witness")})
		case Release:
			e.released = true
		}
		if f, ok := a.(Finish); ok {
			e.finished = append(e.finished, f.Outcome)
		}
	}
}

// run takes events as they come, loses the peer and is cancelled at the end, and
// expects the attempt to end exactly once.
func (e *engine) run(first Event, some []Event) {
	e.take(first)
	for _, ev := range rapid.SliceOfN(rapid.SampledFrom(some), 0, 30).Draw(e.t, "events") {
		e.take(ev)
		if rapid.Bool().Draw(e.t, "result") {
			e.result()
		}
	}
	for range 3 {
		e.result()
		e.take(Unreachable{})
		e.take(Interrupt{})
		e.take(Leave{})
	}
	if len(e.finished) != 1 {
		e.t.Fatalf("finished %d times: %v", len(e.finished), e.finished)
	}
}

func (e *engine) result() {
	if len(e.results) > 0 {
		ev := e.results[0]
		e.results = e.results[1:]
		e.take(ev)
	}
}

// everything is every event but the results of actions, which come by order only.
func everything() []Event {
	all := []Event{Begin{}, Offered{Attempt: attempt(1)}, Offered{Attempt: attempt(2)}, Refused{Attempt: attempt(2)}, Refused{Attempt: attempt(2), NoRecord: true}, Drained{worldDigest},
		Drained{}, Loaded{worldDigest}, Failed{Code: transport.CodeDevice}, Unreachable{}, Reached{}, Interrupt{}, Leave{}, Overdue{},
		Offered{attempt(1), worldWitness}, Offered{attempt(2), worldWitness}}
	for _, a := range []migration.Attempt{attempt(1), attempt(2), {Mig: migration.ID{9}, Epoch: 1}, {}} {
		for _, name := range []string{"WELCOME", "READY", "COMMIT", "RUNNING", "DECLINED", "NOT_STARTED", "CANCEL", "ABORT", "FIN", "QUERY", "FORCED"} {
			all = append(all, messageEvent(name, a, destJournal, worldDigest), messageEvent(name, a, otherJournal, migration.StreamDigest{}))
		}
	}
	return all
}

func TestSourceAlwaysEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSource(attempt(1), sourceJournal)
		s.Witness = rapid.SampledFrom([]Register{0, worldWitness}).Draw(t, "has a witness")
		s.External = rapid.Bool().Draw(t, "has an owner who decides")
		e := &engine{t: t, step: func(ev Event) (actions []Action) {
			could := s.MayResume()
			next, all := takeSource(s, ev)
			s, actions = next, mixed(all)
			if could && !s.MayResume() && s.External && ev != (Approved{}) {
				t.Fatalf("committed by %T", ev)
			}
			if _, declined := ev.(*wire.Declined); !could && s.MayResume() && !declined && ev != (Witnessed{SourceSide}) {
				t.Fatalf("the right to resume came back by %T", ev)
			}
			return actions
		}}
		e.run(Begin{}, everything())
	})
}

func TestDestAlwaysEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDest(destJournal)
		e := &engine{t: t, step: func(ev Event) (actions []Action) {
			before := d
			next, all := takeDest(d, ev)
			d, actions = next, mixed(all)
			if _, commit := ev.(*wire.Commit); d.Phase == DestStarting && before.Phase != DestStarting && !commit && ev != (Witnessed{DestSide}) {
				t.Fatalf("started by %T", ev)
			}
			if d.MaxEpoch < before.MaxEpoch {
				t.Fatalf("the highest epoch fell from %d to %d", before.MaxEpoch, d.MaxEpoch)
			}
			return actions
		}}
		e.run(Offered{attempt(1), rapid.SampledFrom([]Register{0, worldWitness}).Draw(t, "has a witness")}, everything())
	})
}

// Names must exist for everything that can be shown.
func TestNames(t *testing.T) {
	for r := None; r <= ResumeFailed; r++ {
		_ = r.String()
	}
	for s := Side(0); s <= DestSide; s++ {
		_ = s.String()
	}
	for p := SourceIdle; p <= SourceEnded; p++ {
		_ = p.String()
	}
	for p := DestIdle; p <= DestEnded; p++ {
		_ = p.String()
	}
	for o, want := range []string{"pending", "committed", "aborted", "in-doubt", "needs-reset"} {
		if got := migration.Outcome(o).String(); got != want {
			t.Errorf("outcome %d is %q, want %q", o, got, want)
		}
	}
}

func TestMemoryKeeps(t *testing.T) {
	m := NewMemory()
	if m.ID() == (migration.JournalID{}) || m.ID() == NewMemory().ID() {
		t.Fatal("a journal's id is no id")
	}
	for _, r := range []Record{Open, Commit} {
		if err := m.Append(Entry{Record: r}); err != nil {
			t.Fatal(err)
		}
	}
	got := m.Entries()
	if len(got) != 2 || got[0].Record != Open || got[1].Record != Commit {
		t.Fatalf("kept %v", got)
	}
}
