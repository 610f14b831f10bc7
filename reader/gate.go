package reader

import (
	"errors"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// passGate asks the journal whether the devices are still this side's, before
// anybody looks at them. The outcome is Pending if they are, and otherwise what was
// decided before.
func passGate(o Options) (decided report.Report, err error) {
	err = handoff.MayOpen(o.Journal.Last(), o.Attempt)
	if err == nil {
		return decided, nil
	}
	decided = report.Report{Outcome: handoff.Rolledback, Attempt: o.Journal.Last().Attempt, Peer: o.Journal.Last().PeerID}
	if errors.Is(err, handoff.ErrGone) { // as if this attempt had done it
		decided.Outcome, decided.Warnings = handoff.Committed, []string{err.Error() + ": nothing was sent"}
		return decided, nil
	}
	return decided, &transport.Fault{Code: transport.CodeBusy, Err: err}
}
