package handoff

import (
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// DestPhase is where the destination is in the conversation. It is forgotten
// by a crash; the Record is not.
type DestPhase uint8

// The phases of the destination.
const (
	DestIdle      DestPhase = iota
	DestReceiving           // streams are being written
	DestReady               // complete and verified, in STOP
	DestStarting            // ACCEPT recorded, devices on their way to RUNNING
	DestRunning
	DestResetting // the attempt is over, devices are being reset
	DestEnded
)

// String is the phase's name in scenarios and logs.
func (p DestPhase) String() string {
	return [...]string{"idle", "receiving", "ready", "starting", "running", "resetting", "ended"}[p]
}

// Dest is the destination's side of the hand-off. It is the single point at
// which COMMIT and CANCEL race: whichever is recorded first wins, and the other
// is told the truth.
type Dest struct {
	Attempt  migration.Attempt // zero before HELLO
	Journal  migration.JournalID
	Digest   migration.StreamDigest
	Record   Record
	Prior    Record // the one before: after Unrecorded the journal may hold either
	Phase    DestPhase
	MaxEpoch uint64 // the highest epoch seen; older ones never run
	StartNS  int64  // 0 until the devices run
	Hurried  bool   // the user wants the attempt to end: no wait is longer than safety asks for

	Witness Register // that both sides have agreed on, 0 is none
	Asking  bool     // it is being asked, because of COMMIT
	Note    string   // what a FORCED record says, for people
}

// NewDest knows of no attempt.
func NewDest(journal migration.JournalID) Dest { return Dest{Journal: journal} }

// Step is the whole of the destination's behaviour.
func (d Dest) Step(ev DestEvent) (Dest, []DestAction) {
	r, ok := ev.(Received)
	switch {
	case !ok:
		return d.step(ev)
	case *r.Message.About() != d.Attempt:
		return d.foreign(r.Message)
	}
	return d.step(r.Message)
}

// step takes an event, or the message that was received.
func (d Dest) step(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case *wire.Query:
		return d, []DestAction{Send{d.status(ev.Attempt)}}
	case Unrecorded:
		return d.unrecorded()
	}
	switch d.Phase {
	case DestIdle:
		return d.idle(ev)
	case DestReceiving:
		return d.receiving(ev)
	case DestReady:
		return d.ready(ev)
	case DestStarting:
		return d.starting(ev)
	case DestRunning:
		return d.running(ev)
	}
	return d.over(ev)
}

// foreign answers messages of an attempt that is not the one at hand. A record
// rules out every older epoch, so that a COMMIT, CANCEL or ABORT for one gets
// the answer that it never runs here, or that somebody has decided otherwise. Of a
// newer epoch or of another migration this record says nothing, and nothing is what
// they are told.
func (d Dest) foreign(m wire.Message) (Dest, []DestAction) {
	a := *m.About()
	if a.Mig != d.Attempt.Mig || a.Epoch >= d.MaxEpoch || d.Record == None {
		return d, nil
	}
	switch m.(type) {
	case *wire.Commit, *wire.Cancel, *wire.Abort, *wire.Query:
		if d.Record == Forced && a.Epoch+1 == d.Attempt.Epoch { // the one that was in doubt
			return d, []DestAction{Send{d.forced(a)}}
		}
	}
	switch m.(type) {
	case *wire.Commit, *wire.Cancel, *wire.Abort:
		return d, []DestAction{Send{&wire.Declined{Attempt: a, Journal: d.Journal,
			Code: transport.CodeProtocol, Text: "a newer attempt has been opened"}}}
	}
	return d, nil
}

// ruledOut says whether the attempt can never be opened here any more.
func (d Dest) ruledOut(a migration.Attempt) bool {
	return a.Epoch == 0 || a.Mig == d.Attempt.Mig && a.Epoch <= d.MaxEpoch
}

func (d Dest) idle(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case Offered:
		if d.ruledOut(ev.Attempt) {
			return d, nil
		}
		d = d.open(ev.Attempt)
		d.Phase, d.Witness = DestReceiving, ev.Witness
		d, rec := d.record(Open)
		return d, []DestAction{rec, SendWelcome{}}
	case Refused:
		if ev.NoRecord { // in no journal's name: a source that has sent COMMIT does not believe it
			return d, []DestAction{Send{&wire.Declined{Attempt: ev.Attempt, Code: ev.Why.Code,
				Device: ev.Why.Device, Offset: ev.Why.Offset, Text: ev.Why.Text}}}
		}
		if d.ruledOut(ev.Attempt) {
			return d, nil
		}
		return d.open(ev.Attempt).decline(ev.Why.Code, ev.Why.Device, ev.Why.Offset, ev.Why.Text)
	case Interrupt:
		d.Phase = DestEnded
		return d, []DestAction{Finish{migration.Aborted}}
	}
	return d.over(ev)
}

// open turns to a new attempt.
func (d Dest) open(a migration.Attempt) Dest {
	return Dest{Attempt: a, Journal: d.Journal, MaxEpoch: a.Epoch}
}

func (d Dest) receiving(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case Loaded:
		d.Digest, d.Phase = ev.Digest, DestReady
		d, rec := d.record(Ready)
		return d, []DestAction{rec, Send{d.readyMessage()}}
	case *wire.Commit:
		return d.decline(transport.CodeProtocol, "", 0, "COMMIT before READY")
	}
	return d.mayEnd(ev)
}

func (d Dest) ready(ev any) (Dest, []DestAction) {
	m, ok := ev.(*wire.Commit)
	if w, asked := ev.(Witnessed); asked {
		return d.witnessed(w.Winner)
	}
	switch ev {
	case Reached{}:
		return d, []DestAction{Send{d.readyAgain()}}
	case Unreachable{}:
		return d, nil // this may be the last copy, and COMMIT may be on its way: no silence ends the wait
	case Interrupt{}:
		d.Hurried = true
		return d, []DestAction{Send{d.turnBack()}}
	case Leave{}:
		d.Phase = DestEnded
		return d, []DestAction{Finish{migration.InDoubt}}
	}
	if !ok {
		return d.mayEnd(ev)
	}
	if m.Journal != d.Journal {
		return d.decline(transport.CodeProtocol, "", 0, "COMMIT names another journal")
	}
	if m.Digest != d.Digest {
		return d.decline(transport.CodeCorrupt, "", 0, "COMMIT names another digest")
	}
	return d.accept()
}

// mayEnd handles what ends an attempt that was not accepted.
func (d Dest) mayEnd(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case *wire.Cancel:
		return d.decline(transport.CodeCancelled, "", 0, "cancelled by the source")
	case *wire.Abort:
		return d.decline(ev.Code, "", 0, "aborted by the source")
	case Interrupt:
		return d.decline(transport.CodeCancelled, "", 0, "cancelled by the destination")
	case Failed:
		return d.decline(ev.Code, ev.Device, ev.Offset, ev.Text)
	case Unreachable:
		return d.decline(transport.CodeNetwork, "", 0, "the connection was lost")
	}
	return d, nil
}

func (d Dest) starting(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case Started:
		return d.started(ev)
	case NotStarted:
		return d.notStarted(ev)
	case Unreachable, Interrupt, Failed: // they come once, and count when the start has ended
		d.Hurried = true
	}
	return d, nil // COMMIT is on its way; CANCEL came too late
}

// started tells the source first, which waits for it, and then records what tells
// whoever starts again that nothing is left to be started.
func (d Dest) started(ev Started) (Dest, []DestAction) {
	d.Phase, d.StartNS = DestRunning, max(1, ev.TookNS)
	actions := []DestAction{Send{d.runningMessage()}}
	if d.Record != Forced { // which says as much
		var rec Append
		d, rec = d.record(Running)
		actions = append(actions, rec)
	}
	if d.Hurried {
		d.Phase = DestEnded
		actions = append(actions, Finish{migration.Committed})
	}
	return d, actions
}

func (d Dest) notStarted(ev NotStarted) (Dest, []DestAction) {
	switch {
	case d.Record == Forced: // and stays so, whoever tries again
		d.Phase = DestEnded
		return d, []DestAction{Finish{migration.NeedsReset}}
	case ev.Copy == Kept:
		d.Phase = DestReady
		d, rec := d.record(Ready)
		return d, []DestAction{rec, Send{&wire.NotStarted{Attempt: d.Attempt, Journal: d.Journal,
			Code: transport.CodeStart, Device: ev.Device, Text: ev.Text}}}
	case ev.Copy == Dropped:
		d.Phase = DestEnded
		d, rec := d.record(Aborted)
		return d, []DestAction{rec, Send{d.declined(transport.CodeStart, ev.Device, 0, ev.Text)}, Finish{migration.Aborted}}
	}
	d.Phase = DestEnded
	return d, []DestAction{Finish{migration.NeedsReset}}
}

func (d Dest) running(ev any) (Dest, []DestAction) {
	switch ev.(type) {
	case *wire.Commit, *wire.Cancel, Reached:
		return d, []DestAction{Send{d.runningMessage()}}
	case *wire.Fin:
		d.Phase = DestEnded
		d, rec := d.record(Done)
		return d, []DestAction{rec, Finish{migration.Committed}}
	case Unreachable, Interrupt, Failed:
		d.Phase = DestEnded
		return d, []DestAction{Finish{migration.Committed}}
	}
	return d, nil
}

// over answers a source that asks again after the end, and waits for the reset.
func (d Dest) over(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case WasReset:
		if d.Phase != DestResetting {
			return d, nil
		}
		d.Phase = DestEnded
		if ev.Failed {
			return d, []DestAction{Finish{migration.NeedsReset}}
		}
		return d, []DestAction{Finish{migration.Aborted}}
	case *wire.Fin:
		if d.Record == Running {
			d, rec := d.record(Done)
			return d, []DestAction{rec}
		}
	case *wire.Commit, *wire.Cancel, *wire.Abort, Reached:
		if d.Record == Aborted {
			return d, []DestAction{Send{d.declined(transport.CodeCancelled, "", 0, "this attempt has ended")}}
		}
		if d.ran() {
			return d, []DestAction{Send{d.runningMessage()}}
		}
		if d.Record == Lost { // nobody here can answer: people have to
			return d, []DestAction{Send{d.status(d.Attempt)}}
		}
	}
	return d, nil
}

// unrecorded decides without the journal, which may or may not hold the entry.
func (d Dest) unrecorded() (Dest, []DestAction) {
	refused := d.Record
	d.Record = d.Prior
	switch {
	case refused == Running && d.Phase == DestEnded:
		return d, []DestAction{Finish{migration.Committed}}
	case refused == Running: // ACCEPT says who has the devices, and they run
		return d, nil
	case refused == Done: // that the source knows was for nobody but the janitor
		return d, []DestAction{Finish{migration.Committed}}
	case refused == Accept, d.Prior == Accept:
		// Whoever reads the journal may find ACCEPT and start, so that nothing
		// may be started, promised or undone here.
		d.Phase = DestEnded
		return d, []DestAction{Finish{migration.InDoubt}}
	case d.Phase == DestResetting:
		// DECLINED would be a promise without a record, even if READY was never sent:
		// who starts again may find it in the journal and send it then.
		return d, []DestAction{Reset{}}
	}
	return d.decline(transport.CodeInternal, "", 0, "the journal did not take the record")
}

// ran says whether the devices have run here, whatever has become of them.
func (d Dest) ran() bool {
	return (d.Record == Accept || d.Record == Running || d.Record == Done) && d.StartNS > 0
}

// decline ends the attempt: recorded, told, and only then undone, so that the
// source need not wait for the reset.
func (d Dest) decline(code transport.Code, device string, offset uint64, text string) (Dest, []DestAction) {
	d.Phase, d.Asking = DestResetting, false
	d, rec := d.record(Aborted)
	return d, []DestAction{rec, Send{d.declined(code, device, offset, text)}, Reset{}}
}

func (d Dest) declined(code transport.Code, device string, offset uint64, text string) *wire.Declined {
	return &wire.Declined{Attempt: d.Attempt, Journal: d.Journal, Code: code, Device: device, Offset: offset, Text: text}
}

func (d Dest) readyMessage() *wire.Ready {
	return &wire.Ready{Attempt: d.Attempt, Journal: d.Journal, Digest: d.Digest}
}

// readyAgain is what a source that was away is told.
func (d Dest) readyAgain() wire.Message {
	if d.Hurried {
		return d.turnBack()
	}
	return d.readyMessage()
}

// turnBack asks the source to take its devices back. The copy stays until the source says
// ABORT or CANCEL: if the source's host has died, no other copy is left.
func (d Dest) turnBack() *wire.NotStarted {
	return &wire.NotStarted{Attempt: d.Attempt, Journal: d.Journal,
		Code: transport.CodeCancelled, Text: "cancelled by the destination"}
}

func (d Dest) runningMessage() *wire.Running {
	return &wire.Running{Attempt: d.Attempt, Journal: d.Journal, StartNS: d.StartNS}
}

func (d Dest) record(r Record) (Dest, Append) {
	d.Prior, d.Record = d.Record, r
	return d, Append{Entry{Record: r, Attempt: d.Attempt, Journal: d.Journal, Digest: d.Digest, Witness: d.Witness}}
}
