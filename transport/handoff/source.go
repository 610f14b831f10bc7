package handoff

import "github.com/migpipe/migpipe/transport"

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
	SourceResuming             // the devices are going back to RUNNING
	SourceEnded
)

// String is the phase's name in scenarios and logs.
func (p SourcePhase) String() string {
	return [...]string{"idle", "hello", "transfer", "waiting", "deciding", "doubt", "resuming", "ended"}[p]
}

// Source is the source's side of the hand-off. The zero value with Attempt and
// Journal set owns its devices.
type Source struct {
	Attempt transport.Attempt
	Journal transport.JournalID // its own
	Peer    transport.JournalID // the destination's, from WELCOME
	Digest  transport.StreamDigest
	Record  Record
	Phase   SourcePhase
	Back    bool // it has asked for the right to resume back
	// Reverted says that the devices come back from COMMIT.
	Reverted bool
	// External says that somebody else decides whether to commit: the owner of the VM
	// that the devices are of, which has more to move than them.
	External bool
	// Empty says that the devices hold nothing any more of what they held at COMMIT: they
	// were reset with the process, or the host, that has recorded it. The destination's
	// copy is the only one then, and is not asked back.
	Empty bool

	Witness Register // that both sides have agreed on, 0 is none
	Asking  bool     // the witness is being asked
	Lost    bool     // it has answered that the destination may have accepted
	Leaving bool     // nobody waits for the destination any longer
}

// NewSource owns its devices and has no attempt open.
func NewSource(a transport.Attempt, journal transport.JournalID) Source {
	return Source{Attempt: a, Journal: journal, Record: Owner}
}

// MayResume says whether the source may run its devices without asking.
func (s Source) MayResume() bool { return s.Record == Owner || s.Record == Open }

// Step is the whole of the source's behaviour.
func (s Source) Step(ev Event) (Source, []Action) {
	if m, ok := ev.(transport.Message); ok && *m.About() != s.Attempt {
		return s, nil // of another attempt: an echo, or not ours
	}
	switch s.Phase {
	case SourceIdle:
		return s.idle(ev)
	case SourceHello, SourceTransfer, SourceWaiting, SourceDeciding:
		return s.open(ev)
	case SourceDoubt:
		return s.doubt(ev)
	case SourceResuming:
		return s.resuming(ev)
	}
	return s.ended(ev)
}

func (s Source) idle(ev Event) (Source, []Action) {
	if s.Record != Owner {
		return s, nil
	}
	switch ev.(type) {
	case Begin:
		s.Phase = SourceHello
		s, rec := s.record(Open)
		return s, []Action{rec, SendHello{}}
	case Interrupt:
		s.Phase = SourceEnded
		return s, []Action{Finish{Rolledback}}
	}
	return s, nil
}

// open is the time in which the source may turn back for any reason.
func (s Source) open(ev Event) (Source, []Action) {
	switch ev := ev.(type) {
	case *transport.Welcome:
		if s.Phase == SourceHello {
			s.Peer, s.Phase = ev.Journal, SourceTransfer
		}
		return s, nil
	case Drained:
		if s.Phase == SourceTransfer {
			s.Digest, s.Phase = ev.Digest, SourceWaiting
		}
		return s, nil
	case *transport.Ready:
		return s.ready(ev)
	case Approved:
		if s.Phase == SourceDeciding {
			return s.commit()
		}
		return s, nil
	case *transport.Declined, Unreachable:
		return s.rollback(nil)
	case *transport.NotStarted:
		if ev.Journal != s.Peer {
			return s, nil
		}
		return s.rollback(s.abort(ev.Code, "the destination has asked for that"))
	case Unrecorded: // no entry takes a right away that OPEN would have left
		s.Record, s.Phase = Owner, SourceResuming
		return s, []Action{Resume{}}
	case Interrupt:
		return s.rollback(s.abort(transport.CodeCancelled, "cancelled by the source"))
	case Failed:
		return s.rollback(&transport.Abort{Attempt: s.Attempt, Code: ev.Code, Text: ev.Text, Device: ev.Device, Offset: ev.Offset})
	}
	return s, nil
}

func (s Source) ready(m *transport.Ready) (Source, []Action) {
	switch {
	case s.Phase != SourceWaiting && s.Phase != SourceDeciding:
		return s.rollback(s.abort(transport.CodeProtocol, "READY before END"))
	case m.Journal != s.Peer:
		return s.rollback(s.abort(transport.CodeProtocol, "READY from another journal than WELCOME"))
	case m.Digest != s.Digest:
		return s.rollback(s.abort(transport.CodeCorrupt, "READY with another digest than END"))
	case s.Phase == SourceDeciding: // said again, and asked already
		return s, nil
	case s.External:
		s.Phase = SourceDeciding
		return s, []Action{AskApproval{}}
	}
	return s.commit()
}

// commit gives up the right to resume.
func (s Source) commit() (Source, []Action) {
	s.Phase = SourceDoubt
	s, rec := s.record(Commit)
	return s, []Action{rec, Send{s.demand()}}
}

// demand is what a source in doubt has to say.
func (s Source) demand() transport.Message {
	if s.Back {
		return &transport.Cancel{Attempt: s.Attempt}
	}
	return &transport.Commit{Attempt: s.Attempt, Journal: s.Peer, Digest: s.Digest}
}

// doubt is the time in which only the destination's recorded answer counts.
func (s Source) doubt(ev Event) (Source, []Action) {
	switch ev := ev.(type) {
	case *transport.Running:
		if ev.Journal != s.Peer {
			return s, nil
		}
		s.Phase = SourceEnded
		s, rec := s.record(Done)
		return s, []Action{rec, Send{&transport.Fin{Attempt: s.Attempt}}, Release{}, Finish{Committed}}
	case *transport.Declined:
		if ev.Journal != s.Peer {
			return s, nil // a side that lost its journal cannot know
		}
		return s.rollback(nil)
	case *transport.NotStarted, Interrupt, Failed, Unrecorded:
		if s.Empty {
			return s, nil
		}
		// Also where COMMIT was not recorded, and so not sent: whoever reads the
		// journal may find it and send it, so that only DECLINED ends the doubt.
		s.Back = true
		return s, []Action{Send{s.demand()}}
	case Reached: // whatever was said before may be lost
		return s, []Action{Send{s.demand()}}
	case *transport.Status:
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

func (s Source) resuming(ev Event) (Source, []Action) {
	switch ev := ev.(type) {
	case Unrecorded: // the right to resume does not hang on the entry that notes it
		return s, []Action{Resume{s.Reverted}}
	case Resumed:
		s.Phase = SourceEnded
		if ev.Failed {
			return s, []Action{Finish{NeedsReset}}
		}
		return s, []Action{Finish{Rolledback}}
	}
	return s, nil
}

// ended knows one event: DONE was not recorded. The destination runs all the
// same; whoever finds COMMIT in the journal asks again and is told so.
func (s Source) ended(ev Event) (Source, []Action) {
	if _, ok := ev.(Unrecorded); ok && s.Record == Done {
		return s, []Action{Finish{Committed}}
	}
	return s, nil
}

func (s Source) abort(code transport.Code, text string) transport.Message {
	return &transport.Abort{Attempt: s.Attempt, Code: code, Text: text}
}

// rollback takes the devices back. The right to is recorded first, so that a
// crash on the way finds it; the peer is told while they are on their way, since
// a peer that takes nothing must not keep the guest stopped.
func (s Source) rollback(tell transport.Message) (Source, []Action) {
	s.Phase, s.Reverted = SourceResuming, s.Record == Commit
	s, rec := s.record(Owner)
	if tell == nil {
		return s, []Action{rec, Resume{s.Reverted}}
	}
	return s, []Action{rec, Resume{s.Reverted}, Send{tell}}
}

func (s Source) record(r Record) (Source, Append) {
	s.Record = r
	return s, Append{Entry{Record: r, Attempt: s.Attempt, Journal: s.Journal, Peer: s.Peer, Digest: s.Digest, Witness: s.Witness}}
}
