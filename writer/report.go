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

// tell observes an event of the attempt, once HELLO has named one.
func (e *engine) tell(ev migration.Event) {
	if ev.Kind != migration.Asked {
		ev.Attempt = cmp.Or(ev.Attempt, e.out.Attempt)
	}
	e.opts.Observe(ev)
}

func (e *engine) snapshots() []migration.Snapshot {
	if !e.pipe.loads() {
		return nil
	}
	out, stopped := make([]migration.Snapshot, len(e.devices)), !e.times.stopped.IsZero()
	for i, d := range e.devices {
		applied := d.position()
		if applied > 0 && e.times.begun.IsZero() {
			e.times.begun = time.Now()
		}
		out[i] = migration.Snapshot{
			Name: d.Name, Phase: e.phase(), Bytes: applied, Applied: applied,
			Wire: d.received.Load(), Remaining: d.left(stopped), Known: d.estimate.Known,
		}
	}
	return out
}

func (e *engine) phase() string {
	switch {
	case e.owner.HoldsCopy(), e.owner.Starts():
		return migration.Commit
	case e.owner.MayRunDevices():
		return migration.Running
	case e.owner.Resets():
		return migration.Rollback
	case e.times.stopped.IsZero():
		return migration.PreCopy
	}
	return migration.StopCopy
}

func (e *engine) finishReport() {
	e.snapshots()
	e.times.figures(&e.out)
	e.out.Lanes = len(e.pipe.dialled())
	e.out.Occupancy, e.out.StopOccupancy = e.pipe.occupancies(!e.times.stopped.IsZero())
	e.out.NameBottleneck()
	for _, d := range e.devices {
		r := migration.Device{Name: d.Name, State: e.stateOf(d)}
		if l := d.loader; l != nil && !e.stuck { // else nothing was loaded, or nobody can say what
			r.Bytes, r.WireBytes, r.Chunks, r.Digest, r.Path = l.digest.Bytes(), d.received.Load(), l.digest.Chunks(), l.digest.Sum(), l.path()
		}
		e.out.Devices = append(e.out.Devices, r)
	}
}

// stateOf asks a device where it is, unless a driver has just shown that it may not answer.
func (e *engine) stateOf(d *device) string {
	if e.stuck {
		return "unknown: a write to the device does not end"
	}
	return d.state()
}

func (e *engine) result() (migration.Report, error) {
	e.finishReport()
	committed := e.out.Outcome == migration.Committed
	if e.unrecorded != nil && (committed || e.fault != e.unrecorded) {
		e.out.Warnings = append(e.out.Warnings, e.unrecorded.Error())
	}
	if committed {
		return e.out, nil
	}
	if e.fault == nil {
		e.fault, e.tooLate = e.tooLate, nil
	}
	if e.tooLate != nil {
		e.out.Warnings = append(e.out.Warnings, e.tooLate.Error())
	}
	if e.waits.Record != handoff.None && e.out.Outcome == migration.Aborted && e.out.Attempt == (migration.Attempt{}) {
		e.out.Outcome, e.out.Attempt, e.out.Peer = migration.InDoubt, e.waits.Attempt, e.waits.PeerID
	}
	if e.fault == nil {
		e.fault = &transport.Fault{Code: transport.CodeInternal, Err: errors.New("writer: ended without a cause")}
	}
	return e.out, e.fault
}

// keepTimes remembers the steps that have run, for the next migration's prediction.
func (e *engine) keepTimes() {
	if e.opts.StepTimes == nil || e.times.steps.ran == nil {
		return
	}
	if err := handoff.KeepTimes(e.opts.StepTimes, e.times.steps.ran); err != nil {
		e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("the times of this run's steps are not kept: %v", err))
	}
}
