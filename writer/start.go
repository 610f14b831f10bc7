package writer

import (
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// witnessPause is how long the destination waits before it asks a silent witness again.
const witnessPause = time.Second

func (e *engine) witnessed(ev witnessed) {
	if ev.err != nil && !e.watch.warnedWitness {
		e.watch.warnedWitness = true
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("the witness does not answer, and is asked again before a device is started: %v", ev.err)})
	}
	if ev.err == nil {
		e.times.steps.witness, e.times.steps.askedAt = time.Since(e.times.steps.askedAt), time.Time{}
	}
	e.stepHandoff(handoff.Witnessed{Winner: ev.winner})
}

// runOnAccept runs the hook. Its failure ends the start only if no device of the copy runs yet.
func (e *engine) runOnAccept(a migration.Attempt) (failed, warning error) {
	err := e.opts.OnAccept.Run(a)
	if err == nil {
		return nil, nil
	}
	err = fmt.Errorf("on-accept: %w", err)
	if !e.fleet.noneStarted() {
		return nil, err
	}
	return &transport.Fault{Code: transport.CodeStart, Err: err}, nil
}

func (e *engine) started(ev started) {
	if ev.accept > 0 {
		e.times.steps.accept = ev.accept
		e.times.steps.noteStep(handoff.StepAccept, ev.accept)
	}
	if ev.err == nil {
		e.times.steps.noteStep(startStep(e.fleet.targets()), ev.took)
		e.devicesStarted(ev.took)
		return
	}
	fault, ok := errors.AsType[*transport.Fault](ev.err)
	if !ok {
		fault = &transport.Fault{Code: transport.CodeStart, Err: ev.err}
	}
	e.replaceCause(fault)
	e.stepHandoff(handoff.NotStarted{Copy: ev.copy, Device: fault.Device, Text: fault.Err.Error()})
}

// devicesStarted starts the guest on the devices, if there is one.
func (e *engine) devicesStarted(took time.Duration) {
	if e.opts.StartGuest == nil {
		e.reportRunning(took)
		return
	}
	e.emit(migration.Event{Kind: migration.Accepted, Attempt: e.handoff.Attempt})
	e.startGuest(took)
}

// guestStarted leaves the devices of a failed start as they are: a guest that runs nevertheless has
// its only devices there.
func (e *engine) guestStarted(ev guestStarted) {
	if ev.err == nil {
		e.times.steps.noteStep(handoff.StepGuest, ev.took)
		e.reportRunning(ev.devices + ev.took)
		return
	}
	err := fmt.Errorf("start the guest, which may run nevertheless: %w", ev.err)
	e.replaceCause(&transport.Fault{Code: transport.CodeStart, Err: err})
	e.stepHandoff(handoff.NotStarted{Copy: handoff.Unclear, Text: err.Error()})
}

// reportRunning reports RUNNING to the source, which may then release its devices.
func (e *engine) reportRunning(took time.Duration) {
	e.times.running = time.Now()
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Running})
	e.stepHandoff(handoff.Started{TookNS: max(1, took.Nanoseconds())})
}
