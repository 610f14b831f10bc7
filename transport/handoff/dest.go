package handoff

import (
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// DestPhase is the place of the destination in the conversation. A crash loses it; the Record
// stays.
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

// Dest is the destination's side of the hand-off. It is the single point at which COMMIT and
// CANCEL race: the one that is recorded first wins, and the answer to the other is that
// record.
type Dest struct {
	Attempt  migration.Attempt // zero before HELLO
	Journal  migration.JournalID
	Digest   migration.StreamDigest
	Record   Record
	Prior    Record // the one before: after Unrecorded the journal may end with either
	Phase    DestPhase
	MaxEpoch uint64 // the highest epoch seen; older ones never run
	StartNS  int64  // 0 until the devices run
	Hurried  bool   // the user has cancelled: no wait is longer than safety needs

	Witness Register // that both sides have agreed on, 0 is none
	Asking  bool     // it is being asked, because of COMMIT
	Note    string   // the text of a FORCED record, for people
}

// NewDest is a destination without an attempt.
func NewDest(journal migration.JournalID) Dest { return Dest{Journal: journal} }

// Step is the whole of the destination's behaviour.
func (d Dest) Step(ev DestEvent) (Dest, []DestAction) {
	r, ok := ev.(Received)
	switch {
	case !ok:
		return d.step(ev)
	case *r.Message.About() != d.Attempt:
		return d.onForeign(r.Message)
	}
	return d.step(r.Message)
}

// step takes an event, or the message that was received.
func (d Dest) step(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case *wire.Query:
		return d, []DestAction{Send{d.status(ev.Attempt)}}
	case Unrecorded:
		return d.onUnrecorded()
	}
	switch d.Phase {
	case DestIdle:
		return d.atIdle(ev)
	case DestReceiving:
		return d.atReceiving(ev)
	case DestReady:
		return d.atReady(ev)
	case DestStarting:
		return d.atStarting(ev)
	case DestRunning:
		return d.atRunning(ev)
	}
	return d.afterEnd(ev)
}

// onForeign answers messages of another attempt. A record rules out every older epoch: a COMMIT,
// CANCEL or ABORT for one is answered by DECLINED, or by the decision of a person. For a newer
// epoch and for another migration this record proves nothing, and there is no answer.
func (d Dest) onForeign(m wire.Message) (Dest, []DestAction) {
	a := *m.About()
	if a.Mig != d.Attempt.Mig || a.Epoch >= d.MaxEpoch || d.Record == None {
		return d, nil
	}
	switch m.(type) {
	case *wire.Commit, *wire.Cancel, *wire.Abort, *wire.Query:
		if d.Record == Forced && a.Epoch+1 == d.Attempt.Epoch { // the attempt that was in doubt
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

// ruledOut reports whether the attempt can never be opened here any more.
func (d Dest) ruledOut(a migration.Attempt) bool {
	return a.Epoch == 0 || a.Mig == d.Attempt.Mig && a.Epoch <= d.MaxEpoch
}

func (d Dest) atIdle(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case Offered:
		if d.ruledOut(ev.Attempt) {
			return d, nil
		}
		d = d.beginAttempt(ev.Attempt)
		d.Phase, d.Witness = DestReceiving, ev.Witness
		d, rec := d.record(Open)
		return d, []DestAction{rec, SendWelcome{}}
	case Refused:
		if ev.NoRecord { // without a journal's id: a source that has sent COMMIT ignores it
			return d, []DestAction{Send{&wire.Declined{Attempt: ev.Attempt, Code: ev.Why.Code,
				Device: ev.Why.Device, Offset: ev.Why.Offset, Text: ev.Why.Text}}}
		}
		if d.ruledOut(ev.Attempt) {
			return d, nil
		}
		return d.beginAttempt(ev.Attempt).decline(ev.Why.Code, ev.Why.Device, ev.Why.Offset, ev.Why.Text)
	case Interrupt:
		d.Phase = DestEnded
		return d, []DestAction{Finish{migration.Aborted}}
	}
	return d.afterEnd(ev)
}

// beginAttempt is the destination of a new attempt.
func (d Dest) beginAttempt(a migration.Attempt) Dest {
	return Dest{Attempt: a, Journal: d.Journal, MaxEpoch: a.Epoch}
}

func (d Dest) atReceiving(ev any) (Dest, []DestAction) {
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

func (d Dest) atReady(ev any) (Dest, []DestAction) {
	m, ok := ev.(*wire.Commit)
	if w, asked := ev.(Witnessed); asked {
		return d.onWitnessed(w.Winner)
	}
	switch ev {
	case Reached{}:
		return d, []DestAction{Send{d.readyAgain()}}
	case Unreachable{}:
		return d, nil // this may be the last copy, and COMMIT may be in flight: no silence ends the wait
	case Interrupt{}:
		d.Hurried = true
		return d, []DestAction{Send{d.askToResume()}}
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

func (d Dest) atStarting(ev any) (Dest, []DestAction) {
	switch ev := ev.(type) {
	case Started:
		return d.onStarted(ev)
	case NotStarted:
		return d.onNotStarted(ev)
	case Unreachable, Interrupt, Failed: // these events come once, and count when the start has ended
		d.Hurried = true
	}
	return d, nil // COMMIT is being carried out; CANCEL came too late
}

// onStarted sends RUNNING first, since the source waits for it. RUNNING is then recorded, so that
// the next process has nothing to start.
func (d Dest) onStarted(ev Started) (Dest, []DestAction) {
	d.Phase, d.StartNS = DestRunning, max(1, ev.TookNS)
	actions := []DestAction{Send{d.runningMessage()}}
	if d.Record != Forced { // which implies RUNNING
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

func (d Dest) onNotStarted(ev NotStarted) (Dest, []DestAction) {
	switch {
	case d.Record == Forced: // the next process tries again
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

func (d Dest) atRunning(ev any) (Dest, []DestAction) {
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

// afterEnd answers a source after the end of the attempt, and waits for the reset.
func (d Dest) afterEnd(ev any) (Dest, []DestAction) {
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
		if d.Record == Lost { // people have to decide
			return d, []DestAction{Send{d.status(d.Attempt)}}
		}
	}
	return d, nil
}

// onUnrecorded decides without the journal, which may have the entry or not.
func (d Dest) onUnrecorded() (Dest, []DestAction) {
	refused := d.Record
	d.Record = d.Prior
	switch {
	case refused == Running && d.Phase == DestEnded:
		return d, []DestAction{Finish{migration.Committed}}
	case refused == Running: // by ACCEPT the devices are this side's, and they run
		return d, nil
	case refused == Done: // DONE only lets the journal be pruned
		return d, []DestAction{Finish{migration.Committed}}
	case refused == Accept, d.Prior == Accept:
		// The next process may find ACCEPT in the journal and start the devices: here nothing
		// may be started, promised or undone.
		d.Phase = DestEnded
		return d, []DestAction{Finish{migration.InDoubt}}
	case d.Phase == DestResetting:
		// DECLINED would be a promise without a record, even if READY was never sent: the next
		// process may find READY in the journal and send it.
		return d, []DestAction{Reset{}}
	}
	return d.decline(transport.CodeInternal, "", 0, "the journal did not take the record")
}

// ran reports whether the devices have run here, even if they are gone since.
func (d Dest) ran() bool {
	return (d.Record == Accept || d.Record == Running || d.Record == Done) && d.StartNS > 0
}

// decline ends the attempt: it records ABORTED, sends DECLINED, and resets the devices last, so
// that the source does not wait for the reset.
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

// readyAgain is the message for a source that has reconnected.
func (d Dest) readyAgain() wire.Message {
	if d.Hurried {
		return d.askToResume()
	}
	return d.readyMessage()
}

// askToResume asks the source to resume its devices. The copy stays until the source sends ABORT or
// CANCEL: if the source's host has died, there is no other copy.
func (d Dest) askToResume() *wire.NotStarted {
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
