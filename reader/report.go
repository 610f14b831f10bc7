package reader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

func (e *engine) emit(ev migration.Event) { e.opts.emit(ev) }

// emit hands an event of the attempt to Observe.
func (o *Options) emit(ev migration.Event) {
	ev.Attempt = cmp.Or(ev.Attempt, o.Attempt)
	o.Observe(ev)
}

func (e *engine) snapshots() []migration.Snapshot {
	out := make([]migration.Snapshot, len(e.devices))
	for i, d := range e.devices {
		out[i] = migration.Snapshot{
			Name: d.Name, Phase: e.phase(), Bytes: d.bytesRead(),
			Wire: d.sent.Load(), Applied: d.applied, Window: e.pipe.window,
		}
		out[i].Remaining, out[i].Known = e.remaining(d)
		if migration.Moves(out[i].Phase) {
			out[i].Rates = d.rates()
		}
	}
	return out
}

// pathFigures are the measurements of the path, while state moves over it.
func (e *engine) pathFigures() migration.Way {
	if !migration.Moves(e.phase()) {
		return migration.Way{RTT: e.pipe.meter.rtt}
	}
	return migration.Way{Goodput: finite(e.pipe.meter.goodput()), RTT: e.pipe.meter.rtt}
}

// phase is the phase of the migration. The plan knows it until the destination is ready, or the way
// back begins.
func (e *engine) phase() string {
	switch {
	case !e.times.running.IsZero():
		return migration.Running
	case !e.times.back.IsZero():
		return migration.Rollback
	case e.predecessor.inDoubt || !e.times.ready.IsZero():
		return migration.Commit
	}
	return phaseNames[e.plan.Phase()]
}

// phaseNames are the plan's phases as reports name them.
var phaseNames = [plan.Ended + 1]string{
	plan.Connecting: migration.Connect, plan.Entering: migration.PreCopy, plan.Precopying: migration.PreCopy,
	plan.Pausing: migration.Stop, plan.Confirming: migration.Stop, plan.Unpausing: migration.Stop, plan.Quiescing: migration.Stop, plan.Freezing: migration.Stop, plan.Stopping: migration.Stop,
	plan.Draining: migration.StopCopy, plan.Drained: migration.StopCopy, plan.Ended: migration.Rollback,
}

// remaining estimates how many bytes a device has still to yield.
func (e *engine) remaining(d *device) (bytes uint64, known bool) {
	return e.plan.Remaining(d.number, d.bytesRead(), d.atPause.read)
}

func (e *engine) finishReport() {
	e.report.Total, e.report.Downtime, e.report.Stages = e.times.total(e.pipe.firstByte()), e.times.downtime(), e.times.stages()
	if e.report.Outcome == migration.Committed && e.report.Downtime > e.opts.DowntimeTarget {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("the downtime of %v is over the limit of %v",
			e.report.Downtime.Round(time.Millisecond), e.opts.DowntimeTarget))
	}
	e.report.CalledOff = e.times.calledOff
	e.report.Occupancy, e.report.StopOccupancy = e.pipe.occupancies(!e.times.paused.IsZero())
	e.report.NameBottleneck()
	e.report.Lanes = len(e.pipe.lanes)
	states := e.states()
	for i, d := range e.devices {
		t := &streamReader{}
		if d.drain != nil && !e.stuck {
			t = d.drain.reader
		}
		e.report.Devices = append(e.report.Devices, migration.Device{
			Name: d.Name, Bytes: d.bytesRead(), WireBytes: d.sent.Load(),
			PrecopyBytes: d.atPause.read, Chunks: d.end.Chunks, Rounds: e.plan.CountRounds(i),
			Digest: d.end.Digest, Path: t.path, PathWhy: t.why, State: states[i],
			Save: e.saveTimeSincePause(d), Load: d.loadRate.took - d.atPause.loaded,
		})
	}
}

// states asks the devices for their states, unless a driver does not return from a read.
func (e *engine) states() []string {
	if e.stuck {
		return slices.Repeat([]string{"unknown: a read of the device does not end"}, len(e.devices))
	}
	return e.fleet.states()
}

// saveTimeSincePause is how long reading a device has taken since the guest was paused.
func (e *engine) saveTimeSincePause(d *device) time.Duration {
	if d.drain != nil && !e.times.paused.IsZero() {
		return time.Duration(d.drain.took.Load()) - d.atPause.saved
	}
	return 0
}

// copyThere is the copy that the destination was not told to discard, nil for none.
func copyThere(s handoff.Source, ready bool) *migration.CopyThere {
	if !s.Sole || s.Gone {
		return nil
	}
	return &migration.CopyThere{Ready: ready, Rescue: s.Record == handoff.ResumeFailed}
}

func (e *engine) result() (migration.Report, error) {
	e.report.CopyThere = copyThere(e.handoff, !e.times.ready.IsZero())
	e.finishReport()
	if e.unrecorded != nil && e.fault != e.unrecorded {
		e.report.Warnings = append(e.report.Warnings, e.unrecorded.Error())
	}
	if e.report.Outcome == migration.Committed {
		if e.fault != nil { // a record that failed, or a fault that came too late to matter
			e.report.Warnings = append(e.report.Warnings, e.fault.Error())
		}
		return e.report, nil
	}
	if e.fault == nil {
		e.fault = &transport.Fault{Code: transport.CodeInternal, Err: errors.New("reader: ended without a cause")}
	}
	return e.report, e.fault
}

// saveStepTimes stores the times of the steps that ran, for the prediction of the next migration.
func (e *engine) saveStepTimes() {
	if e.opts.StepTimes == nil || e.times.ran == nil {
		return
	}
	if err := handoff.KeepTimes(e.opts.StepTimes, e.times.ran); err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("the times of this run's steps are not stored: %v", err))
	}
}

// reportHooks reports hooks that failed. They have ended.
func (e *engine) reportHooks() {
	if err := e.hooks.committed; err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("on-commit: %v", err))
	}
	if err := e.hooks.reverted; err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("on-revert: %v", err))
	}
}
