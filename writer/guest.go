package writer

import (
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// devicesRun has the guest started on them, if there is one.
func (e *engine) devicesRun(took time.Duration) {
	if e.opts.StartGuest == nil {
		e.running(took)
		return
	}
	e.tell(report.Event{Kind: report.Accepted, Attempt: e.owner.Attempt})
	e.startGuest(took)
}

// guestStarted leaves the devices of a failed start alone: a guest that runs all the
// same has its only ones in them.
func (e *engine) guestStarted(ev guestStarted) {
	if ev.err == nil {
		e.times.steps.note(handoff.StepGuest, ev.took)
		e.running(ev.devices + ev.took)
		return
	}
	err := fmt.Errorf("start the guest, which may run all the same: %w", ev.err)
	e.decideBy(&transport.Fault{Code: transport.CodeStart, Err: err})
	e.own(handoff.NotStarted{Copy: handoff.Unclear, Text: err.Error()})
}

// running tells the source, which may then let go of its devices.
func (e *engine) running(took time.Duration) {
	e.times.running = time.Now()
	e.tell(report.Event{Kind: report.Phase, Phase: report.Running})
	e.own(handoff.Started{TookNS: max(1, took.Nanoseconds())})
}
