package writer

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// emit hands an event of the attempt to Observe, once HELLO has named one.
func (e *engine) emit(ev migration.Event) {
	if ev.Kind != migration.Asked {
		ev.Attempt = cmp.Or(ev.Attempt, e.report.Attempt)
	}
	e.opts.Observe(ev)
}

func (e *engine) snapshots() []migration.Snapshot {
	if !e.pipe.started() {
		return nil
	}
	out, stopped := make([]migration.Snapshot, len(e.devices)), !e.times.stopped.IsZero()
	for i, d := range e.devices {
		applied := d.bytesApplied()
		if applied > 0 && e.times.begun.IsZero() {
			e.times.begun = time.Now()
		}
		out[i] = migration.Snapshot{
			Name: d.Name, Phase: e.phase(), Bytes: applied, Applied: applied,
			Wire: d.received.Load(), Remaining: d.remaining(stopped), Known: d.estimate.Known,
		}
	}
	return out
}

func (e *engine) phase() string {
	switch {
	case e.handoff.HoldsCopy(), e.handoff.Starts():
		return migration.Commit
	case e.handoff.MayRunDevices():
		return migration.Running
	case e.handoff.Resets():
		return migration.Rollback
	case e.times.stopped.IsZero():
		return migration.PreCopy
	}
	return migration.StopCopy
}

func (e *engine) finishReport() {
	e.snapshots()
	e.times.fillReport(&e.report)
	e.report.Lanes = len(e.pipe.dialledLanes())
	e.report.Occupancy, e.report.StopOccupancy = e.pipe.occupancies(!e.times.stopped.IsZero())
	e.report.NameBottleneck()
	for _, d := range e.devices {
		r := migration.Device{Name: d.Name, State: e.stateOf(d)}
		if l := d.loader; l != nil && !e.stuck { // otherwise nothing was loaded, or the loader still runs
			r.Bytes, r.WireBytes, r.Chunks, r.Digest, r.Path = l.digest.Bytes(), d.received.Load(), l.digest.Chunks(), l.digest.Sum(), l.path()
		}
		e.report.Devices = append(e.report.Devices, r)
	}
}

// stateOf asks a device for its state, unless a driver does not return from a write.
func (e *engine) stateOf(d *device) string {
	if e.stuck {
		return "unknown: a write to the device does not end"
	}
	return d.stateText()
}

func (e *engine) result() (migration.Report, error) {
	e.finishReport()
	committed := e.report.Outcome == migration.Committed
	if e.unrecorded != nil && (committed || e.fault != e.unrecorded) {
		e.report.Warnings = append(e.report.Warnings, e.unrecorded.Error())
	}
	if committed {
		return e.report, nil
	}
	if e.fault == nil {
		e.fault, e.lateFault = e.lateFault, nil
	}
	if e.lateFault != nil {
		e.report.Warnings = append(e.report.Warnings, e.lateFault.Error())
	}
	if e.unresolved.Record != handoff.None && e.report.Outcome == migration.Aborted && e.report.Attempt == (migration.Attempt{}) {
		e.report.Outcome, e.report.Attempt, e.report.Peer = migration.InDoubt, e.unresolved.Attempt, e.unresolved.PeerID
	}
	if e.fault == nil {
		e.fault = &transport.Fault{Code: transport.CodeInternal, Err: errors.New("writer: ended without a cause")}
	}
	return e.report, e.fault
}

// saveStepTimes stores the times of the steps that ran, for the prediction of the next migration.
func (e *engine) saveStepTimes() {
	if e.opts.StepTimes == nil || e.times.steps.ran == nil {
		return
	}
	if err := handoff.KeepTimes(e.opts.StepTimes, e.times.steps.ran); err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("the times of this run's steps are not stored: %v", err))
	}
}
