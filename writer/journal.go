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

// openJournal opens the journal, and checks this side's earlier decision about the migration. It
// runs in the loop: nothing else happens meanwhile, and the disk may take its time. With existing
// it makes no journal: without one e.journal stays nil.
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
		e.report.Peer = last.PeerID // a certificate may have a second name
	}
	if err := handoff.MayTake(last, a, e.report.Peer); err != nil {
		if checkBothMayRun(j, a, e.conn.control.Lane(), e.raiseAlarm) {
			last.Journal = j.ID()
			e.conn.control.Send(statusOf(a, last, true)) // DECLINED does not contain the record
		}
		return &transport.Fault{Code: transport.CodeBusy, Err: err}
	}
	e.handoff = handoff.NewDest(j.ID())
	return nil
}

// dismissSource declines a source before the hand-off begins, and waits for another. It records
// nothing: the migration has no journal, or its records leave the attempt no chance, or the journal
// cannot be read. The source has not sent COMMIT, so DECLINED is true.
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

// closeJournal closes the journal. Every record was synced when it was written.
func (e *engine) closeJournal() {
	if c, ok := e.journal.(io.Closer); ok {
		c.Close()
	}
	e.journal = nil
}

// recordReason is what a record says for people: the bytes written so far, and the cause of the
// end.
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

// checkBothMayRun compares the attempt that a source names with the journal. If both sides may run,
// it stores that in the journal and raises an alarm. It stores it once, also if the source names
// further attempts. It reports whether both may run. Any goroutine may call it.
func checkBothMayRun(j handoff.Journal, a migration.Attempt, lane transport.Lane, alarm func(migration.Event)) bool {
	last := j.Last()
	if last.Attempt.Mig != a.Mig || !transport.IsPeer(lane, last.PeerID) || !handoff.BothMayRun(a.Epoch, last.Record, last.Attempt.Epoch) {
		return false
	}
	text := fmt.Sprintf("the source is at attempt %d: FORCED, or its journal was lost", a.Epoch)
	ev := migration.Event{Kind: migration.Alarm, Attempt: last.Attempt, Peer: last.PeerID,
		Text: fmt.Sprintf("%s; this side's record is %v of attempt %d", text, last.Record, last.Attempt.Epoch)}
	// An ACCEPT from before a restart of the host stays the last record: a newer ACCEPT
	// would be started.
	if last.Why.Code != transport.CodeBothMayRun && !(last.Record == handoff.Accept && handoff.Rebooted(j)) {
		last.Why.Text, last.Why.Code = text, transport.CodeBothMayRun
		if err := j.Append(last); err != nil {
			ev.Text += fmt.Sprintf("; the journal did not take that: %v", err)
		}
	}
	alarm(ev)
	return true
}

func (e *engine) postAlarm(ev migration.Event) { e.post(alarmed{ev}) }

// alarmEvery is the shortest time between two alarms of the same migration: its source may ask more
// often.
const alarmEvery = time.Minute

// raiseAlarm emits an alarm.
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
