package handoff

import (
	"cmp"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// SourcePhase is where the source is in the conversation. It is forgotten by a
// crash; the Record is not.
type SourcePhase uint8

// The phases of the source.
const (
	SourceIdle     SourcePhase = iota
	SourceHello                // HELLO sent, waiting for WELCOME
	SourceTransfer             // streams are being sent
	SourceWaiting              // all ENDs sent, waiting for READY
	SourceDeciding             // READY came, and the owner is asked whether to commit
	SourceDoubt                // COMMIT recorded, the answer is outstanding
	SourceHalting              // the devices are going to STOP, the first step of the way back after the last END
	SourceResuming             // the devices are going back to RUNNING
	SourceEnded
)

// String is the phase's name in scenarios and logs.
func (p SourcePhase) String() string {
	return [...]string{"idle", "hello", "transfer", "waiting", "deciding", "doubt", "halting", "resuming", "ended"}[p]
}

// Source is the source's side of the hand-off. The zero value with Attempt and
// Journal set owns its devices.
type Source struct {
	Attempt     migration.Attempt
	Journal     migration.JournalID // its own
	PeerJournal migration.JournalID // the destination's, from WELCOME
	Digest      migration.StreamDigest
	Record      Record
	Phase       SourcePhase
	Back        bool // it has asked for the right to resume back
	// Reverted says that the devices come back from COMMIT.
	Reverted bool
	// External says that somebody else decides whether to commit: the owner of the VM
	// that the devices are of, which has more to move than them.
	External bool
	// Empty says that the devices hold nothing any more of what they held at COMMIT, or
	// cannot be resumed: they were reset with the process, or the host, that has recorded
	// it, or a way back has failed. The destination's copy is the only one then, and is not
	// asked back.
	Empty bool
	// Sole is the newest entry's: the destination's copy may be the only one that works.
	Sole bool
	// Torn says that some device may have been in RUNNING since the last END: a process
	// before this one has recorded OWNER, and has not told how its way back ended.
	Torn bool
	// Gone says that the destination has no copy: it has declined on the way back.
	Gone bool
	// Because is what ABORT says once the devices run again. The zero value says nothing.
	Because Failed

	Witness Register // that both sides have agreed on, 0 is none
	Asking  bool     // the witness is being asked
	Lost    bool     // it has answered that the destination may have accepted
	Leaving bool     // nobody waits for the destination any longer
}

// NewSource owns its devices and has no attempt open.
func NewSource(a migration.Attempt, journal migration.JournalID) Source {
	return Source{Attempt: a, Journal: journal, Record: Owner}
}

// MayResume says whether the source may run its devices without asking.
func (s Source) MayResume() bool {
	return s.Record == Owner || s.Record == Open || s.Record == ResumeFailed
}

// Step is the whole of the source's behaviour.
func (s Source) Step(ev SourceEvent) (Source, []SourceAction) {
	r, ok := ev.(Received)
	switch {
	case !ok:
		return s.step(ev)
	case *r.Message.About() != s.Attempt:
		return s, nil // of another attempt: an echo, or not ours
	}
	return s.step(r.Message)
}

// step takes an event, or the message that was received.
func (s Source) step(ev any) (Source, []SourceAction) {
	switch s.Phase {
	case SourceIdle:
		return s.idle(ev)
	case SourceHello, SourceTransfer, SourceWaiting, SourceDeciding:
		return s.open(ev)
	case SourceDoubt:
		return s.doubt(ev)
	case SourceHalting:
		return s.halting(ev)
	case SourceResuming:
		return s.resuming(ev)
	}
	return s.ended(ev)
}

func (s Source) idle(ev any) (Source, []SourceAction) {
	if s.Record != Owner {
		return s, nil
	}
	switch ev.(type) {
	case Begin:
		s.Phase = SourceHello
		s, rec := s.record(Open)
		return s, []SourceAction{rec, SendHello{}}
	case Interrupt:
		return s.finish(migration.Aborted)
	}
	return s, nil
}

// open is the time in which the source may turn back for any reason.
func (s Source) open(ev any) (Source, []SourceAction) {
	switch ev := ev.(type) {
	case *wire.Welcome:
		if s.Phase == SourceHello {
			s.PeerJournal, s.Phase = ev.Journal, SourceTransfer
		}
		return s, nil
	case Drained:
		if s.Phase == SourceTransfer {
			s.Digest, s.Phase = ev.Digest, SourceWaiting
		}
		return s, nil
	case *wire.Ready:
		return s.ready(ev)
	case Approved:
		if s.Phase == SourceDeciding {
			return s.commit()
		}
		return s, nil
	case *wire.Declined:
		if ev.Journal == s.PeerJournal {
			return s.takeBack(Failed{})
		}
		return s.rollback(Failed{}) // nobody has recorded it in the journal that READY comes from
	case Unreachable:
		return s.rollback(Failed{})
	case *wire.NotStarted:
		if ev.Journal != s.PeerJournal {
			return s, nil
		}
		return s.rollback(Failed{Code: cmp.Or(ev.Code, transport.CodeStart), Text: "the destination has asked for that"})
	case Unrecorded: // no entry takes a right away that OPEN would have left
		s.Record, s.Phase = Owner, SourceResuming
		return s, []SourceAction{Resume{}}
	case Interrupt:
		return s.rollback(Failed{Code: transport.CodeCancelled, Text: "cancelled by the source"})
	case Failed:
		return s.rollback(ev)
	}
	return s, nil
}

func (s Source) ready(m *wire.Ready) (Source, []SourceAction) {
	switch {
	case s.Phase != SourceWaiting && s.Phase != SourceDeciding:
		return s.rollback(Failed{Code: transport.CodeProtocol, Text: "READY before END"})
	case m.Journal != s.PeerJournal:
		return s.rollback(Failed{Code: transport.CodeProtocol, Text: "READY from another journal than WELCOME"})
	case m.Digest != s.Digest:
		return s.rollback(Failed{Code: transport.CodeCorrupt, Text: "READY with another digest than END"})
	case s.Phase == SourceDeciding: // said again, and asked already
		return s, nil
	case s.External:
		s.Phase = SourceDeciding
		return s, []SourceAction{AskApproval{}}
	}
	return s.commit()
}

// commit gives up the right to resume.
func (s Source) commit() (Source, []SourceAction) {
	s.Phase = SourceDoubt
	s, rec := s.record(Commit)
	return s, []SourceAction{rec, Send{s.demand()}}
}

// demand is what a source in doubt has to say.
func (s Source) demand() wire.Message {
	if s.Back {
		return &wire.Cancel{Attempt: s.Attempt}
	}
	return &wire.Commit{Attempt: s.Attempt, Journal: s.PeerJournal, Digest: s.Digest}
}

// doubt is the time in which only the destination's recorded answer counts.
func (s Source) doubt(ev any) (Source, []SourceAction) {
	switch ev := ev.(type) {
	case *wire.Running:
		if ev.Journal != s.PeerJournal {
			return s, nil
		}
		s.Phase = SourceEnded
		s, rec := s.record(Done)
		return s, []SourceAction{rec, Send{&wire.Fin{Attempt: s.Attempt}}, Release{}, Finish{migration.Committed}}
	case *wire.Declined:
		if ev.Journal != s.PeerJournal {
			return s, nil // a side that lost its journal cannot know
		}
		return s.takeBack(Failed{})
	case *wire.NotStarted, Interrupt, Failed, Unrecorded:
		if s.Empty {
			return s, nil
		}
		// Also where COMMIT was not recorded, and so not sent: whoever reads the
		// journal may find it and send it, so that only DECLINED ends the doubt.
		s.Back = true
		return s, []SourceAction{Send{s.demand()}}
	case Reached: // whatever was said before may be lost
		return s, []SourceAction{Send{s.demand()}}
	case *wire.Status:
		if s.overruled(ev) {
			return s.end()
		}
	case Overdue:
		return s.overdue()
	case Witnessed:
		return s.witnessed(ev.Winner)
	case Unreachable:
		return s.leave()
	}
	return s, nil
}

// halting is the first step of the way back after the last END: no device is told to
// run before OWNER is recorded.
func (s Source) halting(ev any) (Source, []SourceAction) {
	switch ev := ev.(type) {
	case *wire.Declined:
		return s.declined(ev), nil
	case Halted:
		if ev.Failed {
			return s.stuck()
		}
		s.Phase = SourceResuming
		s, rec := s.record(Owner)
		return s, []SourceAction{rec, Resume{}}
	}
	return s, nil
}

func (s Source) resuming(ev any) (Source, []SourceAction) {
	switch ev := ev.(type) {
	case *wire.Declined:
		return s.declined(ev), nil
	case Unrecorded:
		if s.Sole && !s.Reverted {
			// The journal may say OPEN, by which a person may hand the devices over: none
			// of them may run.
			return s.finish(migration.NeedsReset)
		}
		s.Because = Failed{} // which would announce what is not recorded
		return s, []SourceAction{Resume{s.Reverted}}
	case Resumed:
		return s.resumed(ev.How)
	}
	return s, nil
}

// declined notes that the destination has dropped its copy.
func (s Source) declined(m *wire.Declined) Source {
	s.Gone = s.Gone || m.Journal == s.PeerJournal
	return s
}

// resumed ends the way back. Only where everything runs again, the destination is told to
// drop its copy.
func (s Source) resumed(how Return) (Source, []SourceAction) {
	switch {
	case how == Back:
		return s.allRun()
	case how == Unheard: // the devices run
		return s.finish(migration.Aborted)
	case how == NoneRan:
		return s.stuck()
	}
	return s.finish(migration.NeedsReset)
}

// stuck ends a way back that failed before any device ran. If the destination may hold a
// copy, a person may have it run there, and the entry says so. It cannot run a copy that
// a witness has denied it.
func (s Source) stuck() (Source, []SourceAction) {
	if !s.Sole || s.Torn || s.Gone || s.Reverted {
		return s.finish(migration.NeedsReset)
	}
	s.Phase = SourceEnded
	s, rec := s.record(ResumeFailed)
	return s, []SourceAction{rec, Finish{migration.NeedsReset}}
}

func (s Source) finish(o migration.Outcome) (Source, []SourceAction) {
	s.Phase = SourceEnded
	return s, []SourceAction{Finish{o}}
}

// allRun tells the destination to drop its copy, if it may have one that it was not told
// of, and then records that this copy is not the only one any more.
func (s Source) allRun() (Source, []SourceAction) {
	var actions []SourceAction
	if s.Because.Code != 0 && !s.Gone {
		actions = append(actions, Send{s.abort()})
	}
	s.Phase = SourceEnded
	if s.Sole {
		s.Sole = false
		var rec Append
		s, rec = s.record(Owner)
		actions = append(actions, rec)
	}
	return s, append(actions, Finish{migration.Aborted})
}

// ended knows one event: the last entry was not recorded. What it says is true all the
// same. The next process finds the entry before it: by COMMIT it asks the destination
// again, and by OWNER or OPEN it takes the devices back again.
func (s Source) ended(ev any) (Source, []SourceAction) {
	if _, ok := ev.(Unrecorded); !ok {
		return s, nil
	}
	switch s.Record {
	case Done:
		return s, []SourceAction{Finish{migration.Committed}}
	case ResumeFailed:
		return s, []SourceAction{Finish{migration.NeedsReset}}
	case Owner:
		return s, []SourceAction{Finish{migration.Aborted}}
	}
	return s, nil
}

func (s Source) abort() wire.Message {
	b := s.Because
	about := s.Attempt
	if s.Record == Forced { // what the destination may still hold is of the attempt before
		about.Epoch--
	}
	return &wire.Abort{Attempt: about, Code: b.Code, Text: b.Text, Device: b.Device, Offset: b.Offset}
}

// rollback turns back, for the reason that is given, or for none that the peer can hear.
// After the last END the destination may hold a complete copy, the only one that is sure
// to work until the devices run again: it is told last (R9).
func (s Source) rollback(why Failed) (Source, []SourceAction) {
	switch s.Phase {
	case SourceWaiting, SourceDeciding:
		s.Phase, s.Sole, s.Because = SourceHalting, true, why
		return s, []SourceAction{Halt{}}
	case SourceDoubt: // by the witness: the destination cannot accept any more
		s.Sole, s.Because = true, why
		return s.takeBack(Failed{})
	}
	return s.takeBack(why)
}

// takeBack turns back where the destination has no complete copy. The right to is recorded
// first, so that a crash on the way finds it; the peer is told while the devices are on
// their way, since a peer that takes nothing must not keep the guest stopped.
func (s Source) takeBack(why Failed) (Source, []SourceAction) {
	s.Phase, s.Reverted = SourceResuming, s.Record == Commit
	s, rec := s.record(Owner)
	if why.Code == 0 {
		return s, []SourceAction{rec, Resume{s.Reverted}}
	}
	tell := s
	tell.Because = why
	return s, []SourceAction{rec, Resume{s.Reverted}, Send{tell.abort()}}
}

func (s Source) record(r Record) (Source, Append) {
	s.Record = r
	return s, Append{Entry{Record: r, Attempt: s.Attempt, Journal: s.Journal, PeerJournal: s.PeerJournal, Digest: s.Digest, Witness: s.Witness, Sole: s.Sole}}
}
