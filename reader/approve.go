package reader

import (
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// askApproval tells that all is at the destination, and asks the owner.
func (e *engine) askApproval() {
	e.tell(report.Event{Kind: report.Ready, Attempt: e.opts.Attempt, Downtime: e.times.downtime()})
	e.approve()
}

// approved goes by the owner's word, unless the attempt has ended without it.
func (e *engine) approved(err error) {
	if !e.owner.AwaitsApproval() {
		return
	}
	if err != nil {
		e.failed(&transport.Fault{Code: transport.CodeCancelled, Err: fmt.Errorf("the switchover was not approved: %w", err)})
		return
	}
	if e.conn.control == nil { // COMMIT would be in doubt at once, and may yet not be needed
		e.assented = true
		return
	}
	e.times.approved = time.Now()
	e.times.note(handoff.StepDecide, e.times.approved.Sub(e.times.ready))
	e.tell(report.Event{Kind: report.Phase, Phase: report.Commit})
	e.own(handoff.Approved{})
}
