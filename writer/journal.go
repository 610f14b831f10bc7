package writer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// openJournal reads what this side has decided about the migration before. Nothing
// else goes on yet, and the disk may take its time. With existing it makes no journal: where
// there is none, e.journal stays nil.
func (e *engine) openJournal(a migration.Attempt, existing bool) *transport.Fault {
	j, err := e.opts.Journals(a.Mig, existing)
	if existing && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("open the journal: %w", err)}
	}
	e.journal = j
	last := j.Last()
	if transport.IsPeer(e.conn.control.Lane(), last.PeerID) {
		e.report.Peer = last.PeerID // a certificate may have another name beside it
	}
	if err := handoff.MayTake(last, a, e.report.Peer); err != nil {
		if checkBothMayRun(j, a, e.conn.control.Lane(), e.raiseAlarm) {
			last.Journal = j.ID()
			e.conn.control.Send(statusOf(a, last, true)) // DECLINED does not tell the record
		}
		return &transport.Fault{Code: transport.CodeBusy, Err: err}
	}
	e.handoff = handoff.NewDest(j.ID())
	return nil
}

// dismiss sends a source away before the hand-off begins, and waits for another.
// Nothing is recorded: no journal of the migration exists, or what is recorded says that the
// attempt has no chance, or nobody can tell what is. Its source has not sent COMMIT, so
// DECLINED is true.
func (e *engine) dismissSource(f *transport.Fault) {
	e.reportRefused(f)
	e.handoff = handoff.Dest{}
	e.stepHandoff(handoff.Refused{Attempt: e.offer.Attempt, Why: failedBy(f), NoRecord: true})
	e.callers.dismiss(e.conn.control.Lane())
	e.closeJournal()
	e.conn.control, e.offer, e.report.Attempt, e.report.Peer = nil, nil, migration.Attempt{}, transport.PeerID{}
	if e.callers.acceptErr != nil {
		e.acceptFailed(e.callers.acceptErr)
	}
}

// closeJournal lets go of the journal. Every record was synced when it was written.
func (e *engine) closeJournal() {
	if c, ok := e.journal.(io.Closer); ok {
		c.Close()
	}
	e.journal = nil
}

// whyRecord is what people will want to know of a record.
func (e *engine) recordReason() handoff.Why {
	w := handoff.Why{Bytes: e.bytesBefore}
	for _, d := range e.devices {
		w.Bytes += d.bytesApplied()
	}
	if e.fault != nil {
		w.Code, w.Text = e.fault.Code, e.fault.Error()
	}
	return w
}

// meet holds the attempt that a source names against the journal. If both sides may run, the
// journal keeps that, once, whatever attempts the source names after it, and the user gets an
// alarm. It reports whether that is so. It may be called from any goroutine.
func checkBothMayRun(j handoff.Journal, a migration.Attempt, lane transport.Lane, alarm func(migration.Event)) bool {
	last := j.Last()
	if last.Attempt.Mig != a.Mig || !transport.IsPeer(lane, last.PeerID) || !handoff.BothMayRun(a.Epoch, last.Record, last.Attempt.Epoch) {
		return false
	}
	text := fmt.Sprintf("the source is at attempt %d: FORCED, or its journal was lost", a.Epoch)
	ev := migration.Event{Kind: migration.Alarm, Attempt: last.Attempt, Peer: last.PeerID,
		Text: fmt.Sprintf("%s; this side's record is %v of attempt %d", text, last.Record, last.Attempt.Epoch)}
	// An ACCEPT of before a restart of the host is kept as it is: a newer one would be
	// started.
	if last.Why.Code != transport.CodeBothMayRun && !(last.Record == handoff.Accept && handoff.Rebooted(j)) {
		last.Why.Text, last.Why.Code = text, transport.CodeBothMayRun
		if err := j.Append(last); err != nil {
			ev.Text += fmt.Sprintf("; the journal does not keep that: %v", err)
		}
	}
	alarm(ev)
	return true
}

func (e *engine) postAlarm(ev migration.Event) { e.post(alarmed{ev}) }

// alarmEvery is how often the same migration raises an alarm: not as often as its source asks.
const alarmEvery = time.Minute

// raise tells of an alarm.
func (e *engine) raiseAlarm(ev migration.Event) {
	if at, ok := e.callers.alarms[ev.Attempt.Mig]; ok && time.Since(at) < alarmEvery {
		return
	}
	if e.callers.alarms == nil {
		e.callers.alarms = map[migration.ID]time.Time{}
	}
	e.callers.alarms[ev.Attempt.Mig] = time.Now()
	e.emit(ev)
}
