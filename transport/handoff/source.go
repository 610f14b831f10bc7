package handoff

import (
	"cmp"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// SourcePhase is the place of the source in the conversation. A crash loses it; the Record
// stays.
type SourcePhase uint8

// The phases of the source.
const (
	SourceIdle     SourcePhase = iota
	SourceHello                // HELLO sent, waiting for WELCOME
	SourceTransfer             // streams are being sent
	SourceWaiting              // all ENDs sent, waiting for READY
	SourceDeciding             // READY came, and the VMM is asked whether to commit
	SourceDoubt                // COMMIT recorded, the answer is outstanding
	SourceHalting              // the devices go to STOP, the first step of the way back after the last END
	SourceResuming             // the devices go back to RUNNING
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
	Back        bool // the source has asked for the right to resume
	// Reverted means that the devices resume after COMMIT was recorded.
	Reverted bool
	// External means that a VMM decides whether to commit: it moves more of the VM than the
	// devices.
	External bool
	// Empty means that the devices do not hold any more what they held at COMMIT, or cannot be
	// resumed: they were reset with the process, or the host, that recorded COMMIT, or a way
	// back has failed. The destination's copy is the only one then, and the source does not ask
	// for it.
	Empty bool
	// Sole is that of the newest entry: the destination's copy may be the only one that works.
	Sole bool
	// Torn means that some device may have been in RUNNING since the last END: an earlier
	// process has recorded OWNER, and has not recorded how its way back ended.
	Torn bool
	// Gone means that the destination has no copy: it has declined during the way back.
	Gone bool
	// Because is the reason in ABORT, once the devices run again. With the zero value no ABORT
	// is sent.
	Because Failed

	Witness Register // that both sides have agreed on, 0 is none
	Asking  bool     // the witness is being asked
	Lost    bool     // the witness has answered that the destination may have accepted
	Leaving bool     // the engine does not wait for the destination any longer
}

// NewSource is a source that owns its devices, without an attempt.
func NewSource(a migration.Attempt, journal migration.JournalID) Source {
	return Source{Attempt: a, Journal: journal, Record: Owner}
}

// MayResume reports whether the source may run its devices without an answer of the peer.
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
		return s, nil // of another attempt
	}
	return s.step(r.Message)
}

// step takes an event, or the message that was received.
func (s Source) step(ev any) (Source, []SourceAction) {
	switch s.Phase {
	case SourceIdle:
		return s.atIdle(ev)
	case SourceHello, SourceTransfer, SourceWaiting, SourceDeciding:
		return s.beforeCommit(ev)
	case SourceDoubt:
		return s.atDoubt(ev)
	case SourceHalting:
		return s.atHalting(ev)
	case SourceResuming:
		return s.atResuming(ev)
	}
	return s.atEnd(ev)
}

func (s Source) atIdle(ev any) (Source, []SourceAction) {
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

// beforeCommit is the part in which the source may take the way back for any reason.
func (s Source) beforeCommit(ev any) (Source, []SourceAction) {
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
		return s.onReady(ev)
	case Approved:
		if s.Phase == SourceDeciding {
			return s.recordCommit()
		}
		return s, nil
	case *wire.Declined:
		if ev.Journal == s.PeerJournal {
			return s.resumeDevices(Failed{})
		}
		return s.rollback(Failed{}) // the journal that READY comes from has no record of it
	case Unreachable:
		return s.rollback(Failed{})
	case *wire.NotStarted:
		if ev.Journal != s.PeerJournal {
			return s, nil
		}
		return s.rollback(Failed{Code: cmp.Or(ev.Code, transport.CodeStart), Text: "the destination has asked for that"})
	case Unrecorded: // the source keeps the right that it had before OPEN
		s.Record, s.Phase = Owner, SourceResuming
		return s, []SourceAction{Resume{}}
	case Interrupt:
		return s.rollback(Failed{Code: transport.CodeCancelled, Text: "cancelled by the source"})
	case Failed:
		return s.rollback(ev)
	}
	return s, nil
}

func (s Source) onReady(m *wire.Ready) (Source, []SourceAction) {
	switch {
	case s.Phase != SourceWaiting && s.Phase != SourceDeciding:
		return s.rollback(Failed{Code: transport.CodeProtocol, Text: "READY before END"})
	case m.Journal != s.PeerJournal:
		return s.rollback(Failed{Code: transport.CodeProtocol, Text: "READY from another journal than WELCOME"})
	case m.Digest != s.Digest:
		return s.rollback(Failed{Code: transport.CodeCorrupt, Text: "READY with another digest than END"})
	case s.Phase == SourceDeciding: // READY was sent again, and the VMM is asked already
		return s, nil
	case s.External:
		s.Phase = SourceDeciding
		return s, []SourceAction{AskApproval{}}
	}
	return s.recordCommit()
}

// recordCommit is the one place where the source loses its right to resume.
func (s Source) recordCommit() (Source, []SourceAction) {
	s.Phase = SourceDoubt
	s, rec := s.record(Commit)
	return s, []SourceAction{rec, Send{s.doubtMessage()}}
}

// doubtMessage is the message of a source in doubt: COMMIT, or CANCEL once it asks for the devices.
func (s Source) doubtMessage() wire.Message {
	if s.Back {
		return &wire.Cancel{Attempt: s.Attempt}
	}
	return &wire.Commit{Attempt: s.Attempt, Journal: s.PeerJournal, Digest: s.Digest}
}

// atDoubt is the part in which only the recorded answer of the destination counts.
func (s Source) atDoubt(ev any) (Source, []SourceAction) {
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
			return s, nil // a destination that lost its journal cannot know
		}
		return s.resumeDevices(Failed{})
	case *wire.NotStarted, Interrupt, Failed, Unrecorded:
		if s.Empty {
			return s, nil
		}
		// Also where COMMIT could not be recorded, and so was not sent: the next process may
		// find it in the journal and send it. Only DECLINED ends the doubt.
		s.Back = true
		return s, []SourceAction{Send{s.doubtMessage()}}
	case Reached: // the message before may be lost
		return s, []SourceAction{Send{s.doubtMessage()}}
	case *wire.Status:
		if s.overruled(ev) {
			return s.endInDoubt()
		}
	case Overdue:
		return s.onOverdue()
	case Witnessed:
		return s.onWitnessed(ev.Winner)
	case Unreachable:
		return s.stopWaiting()
	}
	return s, nil
}

// atHalting is the first step of the way back after the last END: no device runs before OWNER is
// recorded.
func (s Source) atHalting(ev any) (Source, []SourceAction) {
	switch ev := ev.(type) {
	case *wire.Declined:
		return s.onDeclined(ev), nil
	case Halted:
		if ev.Failed {
			return s.failResume()
		}
		s.Phase = SourceResuming
		s, rec := s.record(Owner)
		return s, []SourceAction{rec, Resume{}}
	}
	return s, nil
}

func (s Source) atResuming(ev any) (Source, []SourceAction) {
	switch ev := ev.(type) {
	case *wire.Declined:
		return s.onDeclined(ev), nil
	case Unrecorded:
		if s.Sole && !s.Reverted {
			// The journal may end with OPEN, and a person may then decide for the destination's
			// copy: no device may run here.
			return s.finish(migration.NeedsReset)
		}
		s.Because = Failed{} // no ABORT: it would announce what is not recorded
		return s, []SourceAction{Resume{s.Reverted}}
	case Resumed:
		return s.onResumed(ev.How)
	}
	return s, nil
}

// onDeclined notes that the destination has discarded its copy.
func (s Source) onDeclined(m *wire.Declined) Source {
	s.Gone = s.Gone || m.Journal == s.PeerJournal
	return s
}

// onResumed ends the way back. The source lets the destination discard its copy only if everything
// runs again.
func (s Source) onResumed(how Return) (Source, []SourceAction) {
	switch {
	case how == Back:
		return s.finishResumed()
	case how == Unheard: // the devices run
		return s.finish(migration.Aborted)
	case how == NoneRan:
		return s.failResume()
	}
	return s.finish(migration.NeedsReset)
}

// failResume ends a way back that failed before any device ran. If the destination may hold a copy,
// RESUME_FAILED is recorded, by which a person may have the copy run there. A witness that has
// decided for the source rules that out.
func (s Source) failResume() (Source, []SourceAction) {
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

// finishResumed sends ABORT to a destination that may still hold a copy, and then records that the
// destination's copy is not the only one any more.
func (s Source) finishResumed() (Source, []SourceAction) {
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

// atEnd handles one event: the last entry was not recorded. The entry is true all the same. The
// next process finds the one before it: after COMMIT it asks the destination again, and after
// OWNER or OPEN it resumes the devices again.
func (s Source) atEnd(ev any) (Source, []SourceAction) {
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
	if s.Record == Forced { // the destination may still hold the copy of the attempt before
		about.Epoch--
	}
	return &wire.Abort{Attempt: about, Code: b.Code, Text: b.Text, Device: b.Device, Offset: b.Offset}
}

// rollback begins the way back, for a reason, or for none that the peer can receive. After the
// last END the destination may hold a complete copy, the only one that is sure to work until
// the devices run again: the source sends ABORT last (R9).
func (s Source) rollback(why Failed) (Source, []SourceAction) {
	switch s.Phase {
	case SourceWaiting, SourceDeciding:
		s.Phase, s.Sole, s.Because = SourceHalting, true, why
		return s, []SourceAction{Halt{}}
	case SourceDoubt: // by the witness: the destination cannot accept any more
		s.Sole, s.Because = true, why
		return s.resumeDevices(Failed{})
	}
	return s.resumeDevices(why)
}

// resumeDevices resumes the devices where the destination has no complete copy. OWNER is recorded
// first, for the next process after a crash. ABORT follows while the devices resume: a peer
// that receives nothing must not prolong the pause of the guest.
func (s Source) resumeDevices(why Failed) (Source, []SourceAction) {
	s.Phase, s.Reverted = SourceResuming, s.Record == Commit
	s, rec := s.record(Owner)
	if why.Code == 0 {
		return s, []SourceAction{rec, Resume{s.Reverted}}
	}
	aborting := s
	aborting.Because = why
	return s, []SourceAction{rec, Resume{s.Reverted}, Send{aborting.abort()}}
}

func (s Source) record(r Record) (Source, Append) {
	s.Record = r
	return s, Append{Entry{Record: r, Attempt: s.Attempt, Journal: s.Journal, PeerJournal: s.PeerJournal, Digest: s.Digest, Witness: s.Witness, Sole: s.Sole}}
}
