package handoff

import (
	"slices"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// mistakes are wrong machines, and wrong recoveries, each of which a programmer has
// shipped or might. An exploration that did not find them would be worth nothing.
var mistakes = []struct {
	name           string
	epochs         int
	fails, amnesia bool
	plant          func(w *world)
}{
	{"resume when the connection is lost after COMMIT", 1, false, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceDoubt && ev == (Unreachable{}) {
				return s.resumeDevices(Failed{})
			}
			return takeSource(s, ev)
		}
	}},
	{"cancel after COMMIT without asking", 1, false, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceDoubt && ev == (Interrupt{}) {
				return s.resumeDevices(Failed{Code: transport.CodeCancelled})
			}
			return takeSource(s, ev)
		}
	}},
	{"COMMIT is sent before it is recorded", 1, false, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			next, actions := takeSource(s, ev)
			if next.Phase == SourceDoubt && s.Phase == SourceWaiting {
				slices.Reverse(actions)
			}
			return next, actions
		}
	}},
	{"the COMMIT record is not heeded at a restart", 1, false, false, func(w *world) {
		w.restartSource = func(last Entry) (Source, []SourceAction) {
			if last.Record == Commit {
				last.Record = Open
			}
			return RestartSource(last)
		}
	}},
	{"resume when COMMIT could not be recorded", 1, true, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceDoubt && ev == (Unrecorded{}) {
				s.Phase = SourceResuming
				return s, []SourceAction{Resume{}}
			}
			return takeSource(s, ev)
		}
	}},
	{"release the source on COMMIT", 1, false, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			next, actions := takeSource(s, ev)
			if next.Phase == SourceDoubt && s.Phase == SourceWaiting {
				actions = append(actions, Release{})
			}
			return next, actions
		}
	}},
	{"believe DECLINED from another journal", 1, false, true, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if m, ok := ev.(*wire.Declined); ok && s.Phase == SourceDoubt && m.Attempt == s.Attempt {
				return s.resumeDevices(Failed{})
			}
			return takeSource(s, ev)
		}
	}},
	{"start without COMMIT when the source is silent", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if d.Phase == DestReady && ev == (Unreachable{}) {
				d.Phase = DestStarting
				d, rec := d.record(Accept)
				return d, []DestAction{rec, Start{}}
			}
			return takeDest(d, ev)
		}
	}},
	{"accept after an abort", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if m, ok := ev.(*wire.Commit); ok && d.Record == Aborted && m.Attempt == d.Attempt {
				d.Phase = DestStarting
				d, rec := d.record(Accept)
				return d, []DestAction{rec, Start{}}
			}
			return takeDest(d, ev)
		}
	}},
	{"READY before everything is loaded", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			next, actions := takeDest(d, ev)
			if next.Phase == DestReceiving && d.Phase == DestIdle {
				next, more := next.Step(Loaded{worldDigest})
				return next, append(actions, more...)
			}
			return next, actions
		}
	}},
	{"HELLO is DECLINED without a record, in the journal's name", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			next, actions := takeDest(d, ev)
			if r, ok := ev.(Refused); ok && r.NoRecord && d.Phase == DestIdle {
				return next, []DestAction{Send{&wire.Declined{Attempt: r.Attempt, Journal: d.Journal}}}
			}
			return next, actions
		}
	}},
	{"take messages of any attempt for the present one", 2, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if m, ok := ev.(*wire.Commit); ok {
				ev = &wire.Commit{Attempt: d.Attempt, Journal: m.Journal, Digest: m.Digest}
			}
			return takeDest(d, ev)
		}
	}},
	{"the source takes answers of any attempt for the present one", 2, false, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if m, ok := ev.(*wire.Declined); ok {
				ev = &wire.Declined{Attempt: s.Attempt, Journal: m.Journal}
			}
			return takeSource(s, ev)
		}
	}},
	{"open an attempt again that was aborted", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if _, ok := ev.(Offered); ok && d.Phase == DestIdle {
				d.MaxEpoch = 0
			}
			return takeDest(d, ev)
		}
	}},
	{"ACCEPT is not recorded", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			next, actions := takeDest(d, ev)
			return next, slices.DeleteFunc(actions, func(a DestAction) bool {
				rec, ok := a.(Append)
				return ok && rec.Entry.Record == Accept
			})
		}
	}},
	{"start although ACCEPT could not be recorded", 1, true, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if d.Phase == DestStarting && ev == (Unrecorded{}) {
				return d, []DestAction{Start{}}
			}
			return takeDest(d, ev)
		}
	}},
	{"undo although ACCEPT may be recorded", 1, true, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if d.Phase == DestStarting && ev == (Unrecorded{}) {
				d.Phase = DestResetting
				return d, []DestAction{Reset{}}
			}
			return takeDest(d, ev)
		}
	}},
	{"DECLINED before the abort is recorded", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			next, actions := takeDest(d, ev)
			if next.Phase == DestResetting && len(actions) == 3 {
				actions[0], actions[1] = actions[1], actions[0]
			}
			return next, actions
		}
	}},
	{"RUNNING before the start", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			next, actions := takeDest(d, ev)
			if next.Phase == DestStarting && d.Phase == DestReady {
				actions = slices.Insert(actions, 1, DestAction(Send{d.runningMessage()}))
			}
			return next, actions
		}
	}},
	{"CANCEL undoes what was accepted", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if m, ok := ev.(*wire.Cancel); ok && d.Phase == DestStarting && m.Attempt == d.Attempt {
				return d.decline(transport.CodeCancelled, "", 0, "")
			}
			return takeDest(d, ev)
		}
	}},
	{"a failed start is forgotten", 1, false, false, func(w *world) {
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if n, ok := ev.(NotStarted); ok && n.Copy == Unclear && d.Phase == DestStarting {
				return d.decline(transport.CodeStart, "", 0, "")
			}
			return takeDest(d, ev)
		}
	}},
	{"READY is said without a copy", 1, false, false, func(w *world) {
		w.restartDest = func(last Entry, holding Holding) (Dest, []DestAction) {
			if last.Record == Ready {
				holding = Whole
			}
			return RestartDest(last, holding)
		}
	}},
	{"what was accepted and is gone is declined", 1, false, false, func(w *world) {
		w.restartDest = func(last Entry, holding Holding) (Dest, []DestAction) {
			if last.Record == Accept && holding != Whole {
				last.Record, holding = Ready, Nothing
			}
			return RestartDest(last, holding)
		}
	}},
	{"a source in doubt that is reached again resumes", 1, false, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceDoubt && ev == (Reached{}) {
				return s.resumeDevices(Failed{})
			}
			return takeSource(s, ev)
		}
	}},
	{"the ACCEPT record is not heeded at a restart", 1, false, false, func(w *world) {
		w.restartDest = func(last Entry, holding Holding) (Dest, []DestAction) {
			if last.Record == Accept {
				last.Record = Open
			}
			return RestartDest(last, holding)
		}
	}},
	{"the source resumes when the answer is overdue, and asks no witness", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD = worldWitness, worldWitness
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceDoubt && ev == (Overdue{}) {
				return s.resumeDevices(Failed{})
			}
			return takeSource(s, ev)
		}
	}},
	{"the destination accepts, and asks no witness", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD = worldWitness, worldWitness
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			next, actions := takeDest(d, ev)
			if next.Asking && !d.Asking {
				return next.recordAccept()
			}
			return next, actions
		}
	}},
	{"only the source has a witness", 1, false, false, func(w *world) { w.witnessS = worldWitness }},
	{"the source takes a register that it lost for its own", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD = worldWitness, worldWitness
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if ev == (Witnessed{DestSide}) {
				ev = Witnessed{SourceSide}
			}
			return takeSource(s, ev)
		}
	}},
	{"the destination takes a register that it lost for its own", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD = worldWitness, worldWitness
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if ev == (Witnessed{SourceSide}) {
				ev = Witnessed{DestSide}
			}
			return takeDest(d, ev)
		}
	}},
	{"the source takes a witness that does not answer for a yes", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD = worldWitness, worldWitness
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if ev == (Witnessed{}) {
				ev = Witnessed{SourceSide}
			}
			return takeSource(s, ev)
		}
	}},
	{"the destination takes a witness that does not answer for a yes", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD = worldWitness, worldWitness
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if ev == (Witnessed{}) {
				ev = Witnessed{DestSide}
			}
			return takeDest(d, ev)
		}
	}},
	{"the destination forgets at a restart that there is a witness", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD = worldWitness, worldWitness
		w.restartDest = func(last Entry, holding Holding) (Dest, []DestAction) {
			last.Witness = 0
			return RestartDest(last, holding)
		}
	}},
	{"a forced destination declines", 1, false, false, func(w *world) {
		w.forces = true
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			m, ok := ev.(wire.Message)
			if ok && d.Record == Forced && m.About().Epoch < d.MaxEpoch {
				return d, []DestAction{Send{&wire.Declined{Attempt: *m.About(), Journal: d.Journal}}}
			}
			return takeDest(d, ev)
		}
	}},
	{"a source in doubt takes FORCED for DECLINED", 1, false, false, func(w *world) {
		w.forces = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if m, ok := ev.(*wire.Status); ok && s.Phase == SourceDoubt && s.overruled(m) {
				return s.resumeDevices(Failed{})
			}
			return takeSource(s, ev)
		}
	}},
	{"a source that was forced is in doubt again after a restart", 1, false, false, func(w *world) {
		w.forces = true
		w.restartSource = func(last Entry) (Source, []SourceAction) {
			s, actions := RestartSource(last)
			if last.Record == Forced {
				old := attempt(last.Attempt.Epoch - 1)
				actions = append(actions, Send{&wire.Commit{Attempt: old, Journal: last.PeerJournal, Digest: last.Digest}})
			}
			return s, actions
		}
	}},
	{"a forced destination that fails to start is READY again", 1, false, false, func(w *world) {
		w.forces = true
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if n, ok := ev.(NotStarted); ok && d.Record == Forced && n.Copy != Kept {
				return d.decline(transport.CodeStart, "", 0, "")
			}
			return takeDest(d, ev)
		}
	}},
	{"COMMIT is said before the owner's word", 1, false, false, func(w *world) {
		w.external = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			next, actions := takeSource(s, ev)
			if next.Phase == SourceDeciding && s.Phase == SourceWaiting {
				return next.recordCommit()
			}
			return next, actions
		}
	}},
	{"READY that is said again is taken for the owner's word", 1, false, false, func(w *world) {
		w.external = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if _, ok := ev.(*wire.Ready); ok && s.Phase == SourceDeciding {
				ev = Approved{}
			}
			return takeSource(s, ev)
		}
	}},
	{"COMMIT is recorded before the owner is asked", 1, false, false, func(w *world) {
		w.external = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			next, actions := takeSource(s, ev)
			if next.Phase == SourceDeciding && s.Phase == SourceWaiting {
				next, rec := next.record(Commit)
				return next, append([]SourceAction{rec}, actions...)
			}
			return next, actions
		}
	}},
	{"the owner's word counts after the source has turned back", 1, false, false, func(w *world) {
		w.external = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceResuming && ev == (Approved{}) {
				return s.recordCommit()
			}
			return takeSource(s, ev)
		}
	}},
	{"a source whose devices are gone asks for them back", 1, false, false, func(w *world) {
		w.reboots = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			s.Empty = false
			return takeSource(s, ev)
		}
	}},
	{"a signal drops the copy", 1, false, false, func(w *world) {
		w.reboots, w.cancels = true, true
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if d.Phase == DestReady && ev == (Interrupt{}) {
				return d.mayEnd(ev)
			}
			return takeDest(d, ev)
		}
	}},
	{"a signal during a start that fails drops the copy", 1, false, false, func(w *world) {
		w.reboots, w.cancels = true, true
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if n, ok := ev.(NotStarted); ok && d.Phase == DestStarting && d.Hurried && n.Copy == Kept {
				return d.decline(transport.CodeStart, "", 0, "")
			}
			return takeDest(d, ev)
		}
	}},
	{"a user who leaves a copy behind drops it", 1, false, false, func(w *world) {
		w.reboots, w.cancels = true, true
		w.dest = func(d Dest, ev Event) (Dest, []DestAction) {
			if d.Phase == DestReady && ev == (Leave{}) {
				return d.mayEnd(Interrupt{})
			}
			return takeDest(d, ev)
		}
	}},
	{"ABORT before the resume is sure", 1, false, false, func(w *world) {
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceWaiting && ev == (Interrupt{}) {
				return s.resumeDevices(Failed{Code: transport.CodeCancelled})
			}
			return takeSource(s, ev)
		}
	}},
	{"rescue after a device ran", 1, false, false, func(w *world) {
		w.rescues = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if ev == (Resumed{SomeRan}) {
				ev = Resumed{NoneRan}
			}
			return takeSource(s, ev)
		}
	}},
	{"rescue after a restart, as if no device had run", 1, false, false, func(w *world) {
		w.rescues = true
		w.restartSource = func(last Entry) (Source, []SourceAction) {
			s, actions := RestartSource(last)
			s.Torn = false
			return s, actions
		}
	}},
	{"rescue by the record OWNER alone", 1, false, false, func(w *world) {
		w.rescues = true
		w.rescue = func(last Entry) (Entry, bool) {
			if last.Record == Owner && last.Sole {
				last.Record = ResumeFailed
			}
			return CommitThere(last, "")
		}
	}},
	{"a source that cannot resume asks for its devices back", 1, false, false, func(w *world) {
		w.rescues = true
		w.restartSource = func(last Entry) (Source, []SourceAction) {
			s, actions := RestartSource(last)
			s.Empty = false
			return s, actions
		}
	}},
	{"devices run before OWNER is recorded, and a person reads OPEN", 1, true, false, func(w *world) {
		w.rescues = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceResuming && ev == (Unrecorded{}) {
				return s, []SourceAction{Resume{}}
			}
			return takeSource(s, ev)
		}
	}},
	{"devices that stop after the watch has given up are resumed", 1, false, false, func(w *world) {
		w.rescues = true
		w.source = func(s Source, ev Event) (Source, []SourceAction) {
			if s.Phase == SourceEnded && s.Record == ResumeFailed && ev == (Halted{}) {
				return s, []SourceAction{Resume{}}
			}
			return takeSource(s, ev)
		}
	}},
	{"the destination is forced, and the witness is not told", 1, false, false, func(w *world) {
		w.witnessS, w.witnessD, w.forces = worldWitness, worldWitness, true
		w.forceD = func(*world, *state, Entry) bool { return true }
	}},
}

func TestExploreFindsMistakes(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			unlessSlow(t, m.epochs > 1 || m.amnesia)
			w := newWorld(m.epochs)
			w.journalFails, w.amnesia = m.fails, m.amnesia
			// Rule R1 alone would find some; the devices have to show them all.
			w.looseRecords = true
			m.plant(w)
			err := w.explore()
			if err == nil {
				t.Fatalf("not found in %d states", len(w.queue))
			}
			what, _, _ := strings.Cut(err.Error(), "\n")
			t.Logf("found in %d states: %s", len(w.queue), what)
		})
	}
}
