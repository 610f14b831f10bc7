package writer

import (
	"context"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// Receive serves one migration from a peer that listener accepts, into sinks,
// as one set: all of them run in the end, or none, and those that do not run
// are reset. It returns when every goroutine that it started has ended; the
// listener stays open.
//
// The report's Outcome says what may be done now; the error is nil exactly for
// handoff.Committed and is a *transport.Fault where the cause has a place.
// Cancelling ctx before COMMIT resets the devices.
func Receive(ctx context.Context, listener transport.Listener, sinks []Sink, opts *Options) (report.Report, error) {
	panic("engine is being written")
}
