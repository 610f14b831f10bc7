package reader

import (
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// stepPlan steps the plan and carries out its actions.
func (e *engine) stepPlan(ev plan.Event) {
	if !e.handoff.AwaitsReady() {
		return
	}
	for _, a := range e.plan.Step(time.Since(e.times.start), ev) {
		switch a := a.(type) {
		case plan.EnterStates:
			e.enterStates(a.Moves)
		case plan.WarmLanes:
			e.startWarmup()
		case plan.PauseGuest:
			e.beginPause(a)
		case plan.ConfirmEstimates:
			e.confirmEstimates()
		case plan.ResumeGuest:
			e.callOff()
		case plan.EndStream:
			e.sendEnd(e.devices[a.Device])
		case plan.ReportDrained:
			e.finishDrains()
		case plan.WarnUser:
			e.emit(migration.Event{Kind: migration.Warning, Text: a.Text})
		case plan.EndAttempt:
			e.fail(&transport.Fault{Code: transport.CodeTimeout, Err: a.Cause})
		}
	}
}

func (e *engine) entered(ev entered) {
	if ev.err != nil {
		e.fail(e.fleet.faultOf(ev.err))
	}
	if !e.handoff.AwaitsReady() {
		return
	}
	e.times.slowestMove = max(e.times.slowestMove, ev.took)
	e.pipe.startDrains(e.fleet)
	switch e.plan.Phase() {
	case plan.Entering:
		e.emit(migration.Event{Kind: migration.Phase, Phase: migration.PreCopy})
	case plan.Stopping:
		e.enterStopCopy()
	}
	e.stepPlan(plan.StatesReached{})
}

// enterStopCopy lets the drains take the end of a stream as final.
func (e *engine) enterStopCopy() {
	e.times.stopped = time.Now()
	e.times.noteStep(stopStep(e.fleet.sources()), e.times.stopped.Sub(e.times.paused)-e.times.steps.Pause.Took)
	failpoint.Reach("source", "did", "stop")
	e.watch.noteStopped(e.times.stopped)
	for _, d := range e.devices {
		close(d.drain.stopCopy)
	}
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.StopCopy})
	e.limitReading() // the limit falls now: no further ACK may come that would lift it
	e.sendEstimate()
	e.pipe.queue.divide(e.needs())
}

// beginPause pauses the guest, and stops the drains from polling: a poll could produce more dirty
// data.
func (e *engine) beginPause(a plan.PauseGuest) {
	e.times.paused, e.guestUp = time.Now(), false
	e.times.atLimit = time.After(e.opts.DowntimeTarget)
	e.report.Predicted = &a.Predicted
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Stop, Text: a.Why, Predicted: e.report.Predicted})
	for _, d := range e.devices {
		if d.drain != nil {
			d.drain.noPolling.Store(true)
		}
		d.markPause()
	}
	e.pipe.atPause = e.pipe.currentProgress()
	if e.opts.PauseGuest == nil {
		e.guestPaused(nil)
		return
	}
	e.pauseGuest()
}

func (e *engine) guestPaused(err error) {
	if err != nil {
		code := transport.CodeDevice
		if f, ok := errors.AsType[*transport.Fault](err); ok { // the owner states the cause
			code = f.Code
		}
		e.fail(&transport.Fault{Code: code, Err: fmt.Errorf("pause the guest: %w", err)})
		return
	}
	if e.opts.PauseGuest != nil {
		took := time.Since(e.times.paused)
		e.times.steps.Pause = migration.Step{Took: took} // for the next switchover, if this one is called off
		e.times.noteStep(handoff.StepPause, took)
	}
	e.stepPlan(plan.GuestPaused{})
}

// confirmEstimates polls every device in PRE_COPY that reports REINIT once more, now that the guest
// is paused: a device that was initialised again must not be stopped. It does not poll the others,
// because virtio would dump everything.
func (e *engine) confirmEstimates() {
	for _, d := range e.devices {
		if d.drain != nil && d.Device.Features().PreCopyInfoV2 {
			e.unconfirmed++
			e.pipe.pollDevice(d, false, true)
		}
	}
	if e.unconfirmed == 0 {
		e.stepPlan(plan.EstimatesConfirmed{})
	}
}

// asked handles the end of a poll.
func (e *engine) asked(ev asked) {
	if !ev.confirm {
		e.devices[ev.device].polls.asking = false
	}
	if ev.err != nil {
		e.fail(e.fleet.faultOf(&deviceError{ev.device, ev.err}))
		return
	}
	if !ev.confirm || e.plan.Phase() != plan.Confirming { // an answer from before the pause confirms nothing
		return
	}
	if e.unconfirmed--; e.unconfirmed == 0 {
		e.stepPlan(plan.EstimatesConfirmed{})
	}
}

// callOff ends a switchover, and resumes the guest.
func (e *engine) callOff() {
	e.emit(migration.Event{Kind: migration.Warning, Text: "the switchover was called off: a device was initialised again"})
	if e.opts.ResumeGuest == nil || e.opts.PauseGuest == nil {
		e.guestResumed(nil)
		return
	}
	e.resumeGuest()
}

func (e *engine) guestResumed(err error) {
	if !e.handoff.AwaitsReady() {
		return // on the way back already
	}
	if err != nil {
		e.fail(&transport.Fault{Code: transport.CodeDevice, Err: fmt.Errorf("resume the guest: %w", err)})
		return
	}
	e.times.calledOff += time.Since(e.times.paused)
	e.watch.warnedLate = false
	e.times.paused, e.times.firstApplied, e.report.Predicted = time.Time{}, time.Time{}, nil
	for _, d := range e.devices {
		if d.drain != nil {
			d.drain.noPolling.Store(false)
		}
	}
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.PreCopy})
	e.stepPlan(plan.GuestResumed{})
}

// pollEvery is how often a device that is never idle is polled for its estimates. sizeEvery is how
// often every device is polled for the size of STOP_COPY.
const (
	pollEvery = 250 * time.Millisecond
	sizeEvery = time.Second
)

// pollBusy polls the devices that have not been idle for a while.
func (e *engine) pollBusy() {
	if e.plan.Phase() != plan.Precopying {
		return
	}
	for _, d := range e.devices {
		p := &d.polls
		if p.asking {
			continue
		}
		size := time.Since(p.size) > sizeEvery
		if !size && (d.drain == nil || time.Since(p.last) < pollEvery) {
			continue
		}
		if size {
			p.size = time.Now()
		}
		p.asking = true
		if d.drain == nil { // without PRE_COPY, it has a size only
			e.pipe.pollSize(d)
			continue
		}
		e.pipe.pollDevice(d, size, false)
	}
}

// measure gives the plan the progress and the speed of every stage.
func (e *engine) measure() {
	known := func(d time.Duration) migration.Span { return migration.Span{Took: d, Known: true} }
	ev := e.pipe.measure()
	ev.Path.Steps = e.times.steps
	// Without a measurement of these, other transitions stand in: see package plan.
	ev.Stop, ev.Start = known(max(e.times.slowestMove, e.times.steps.Stop.Took)), known(max(e.times.enterTook, e.times.steps.Start.Took))
	e.stepPlan(ev)
	e.limitReading()
}

// limitReading bounds the bytes that were read and not applied while the guest runs: they all add
// to the downtime. After the pause there is no bound.
func (e *engine) limitReading() {
	e.pipe.limitReading(e.plan.Window(e.pipe.peak), e.needs())
}

func (e *engine) finishDrains() {
	e.times.drained = time.Now()
	e.pipe.joinDrains()
	digests := make([]migration.StreamDigest, len(e.devices))
	for i, d := range e.devices {
		digests[i] = d.end.Digest
	}
	e.stepHandoff(handoff.Drained{Digest: wire.SetDigest(digests)})
}

// needs is what memory and lanes are divided by. The next call overwrites it.
func (e *engine) needs() []share.Need {
	for i, d := range e.devices {
		bytes, known := e.remaining(d)
		e.pipe.needs[i] = share.Need{Bytes: bytes, Known: known, Priority: uint8(d.Priority), Done: e.plan.HasEnded(i)}
	}
	return e.pipe.needs
}

// askApproval reports that the destination has loaded everything, and asks the owner.
func (e *engine) askApproval() {
	e.emit(migration.Event{Kind: migration.Ready, Attempt: e.opts.Attempt, Downtime: e.times.downtime()})
	e.approve()
}

// approved handles the owner's answer, unless the attempt has ended without it.
func (e *engine) approved(err error) {
	if !e.handoff.AwaitsApproval() {
		return
	}
	if err != nil {
		e.fail(&transport.Fault{Code: transport.CodeCancelled, Err: fmt.Errorf("the switchover was not approved: %w", err)})
		return
	}
	if e.conn.control == nil { // COMMIT would be in doubt at once: wait until the destination is back
		e.approvedWhileLost = true
		return
	}
	e.times.approved = time.Now()
	e.times.noteStep(handoff.StepDecide, e.times.approved.Sub(e.times.ready))
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Commit})
	e.stepHandoff(handoff.Approved{})
}

func (e *engine) startWarmup() {
	e.pipe.startWarmup()
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.WarmUp})
}

// checkWarmup continues the plan when the last padding has arrived.
func (e *engine) checkWarmup() {
	if !e.pipe.finishWarmup(time.Now()) {
		return
	}
	if p, ok := e.opts.Codec.(codec.Informed); ok { // the codec goes by the measured lanes from the first chunk on
		p.Inform(e.pipe.meter.full.value(), len(e.pipe.lanes))
	}
	e.measure()
	e.stepPlan(plan.LanesWarmed{})
	if e.plan.Phase() == plan.Precopying {
		e.emit(migration.Event{Kind: migration.Phase, Phase: migration.PreCopy})
	}
}
