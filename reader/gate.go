package reader

import (
	"errors"
	"fmt"

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
	decided = report.Report{Outcome: handoff.Rolledback, Attempt: o.Attempt}
	switch {
	case errors.Is(err, handoff.ErrGone): // as if this attempt had done it
		decided.Outcome, decided.Warnings = handoff.Committed, []string{err.Error() + ": nothing was sent"}
		return decided, nil
	case errors.Is(err, handoff.ErrInDoubt):
		decided.Outcome = handoff.InDoubt
	}
	return decided, &transport.Fault{Code: transport.CodeBusy, Err: err}
}

// closeAttempt records the end of an attempt that ended with its process. Its
// devices were found running.
func closeAttempt(o Options) error {
	last := o.Journal.Last()
	if last.Record != handoff.Open {
		return nil
	}
	closed := handoff.Entry{Record: handoff.Owner, Attempt: last.Attempt, Journal: o.Journal.ID()}
	if err := o.Journal.Append(closed); err != nil {
		return &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("journal %v: %w", closed.Record, err)}
	}
	return nil
}
