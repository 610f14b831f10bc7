package reader

import (
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// approved is the event of the owner's word about COMMIT.
type approved struct{ err error }

// askApproval tells that all is at the destination, and asks the owner.
func (e *engine) askApproval() {
	e.tell(report.Event{Kind: report.Ready, Attempt: e.opts.Attempt, Downtime: e.downtime()})
	e.approve()
}

// approved goes by the owner's word, unless the attempt has ended without it.
func (e *engine) approved(err error) {
	if e.owner.Phase != handoff.SourceDeciding {
		return
	}
	if err != nil {
		e.failed(&transport.Fault{Code: transport.CodeCancelled, Err: fmt.Errorf("the switchover was not approved: %w", err)})
		return
	}
	if e.control == nil { // COMMIT would be in doubt at once, and may yet not be needed
		e.assented = true
		return
	}
	e.clock.approved = time.Now()
	e.note(handoff.StepDecide, e.clock.approved.Sub(e.clock.ready))
	e.tell(report.Event{Kind: report.Phase, Phase: report.Commit})
	e.own(handoff.Approved{})
}

// watchDecision bounds how long the guest stands still for the owner's word. That no
// byte moves meanwhile is no stall.
func (e *engine) watchDecision() {
	if time.Since(e.clock.paused) >= e.opts.MaxDowntime {
		e.failed(&transport.Fault{Code: transport.CodeTimeout,
			Err: fmt.Errorf("the switchover was not approved: %w for %v", ErrMaxDowntime, e.opts.MaxDowntime)})
	}
}

// decided is when COMMIT was up to nobody but this side.
func (c *clock) decided() time.Time { return later(c.ready, c.approved) }
