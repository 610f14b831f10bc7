package reader

import (
	"context"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// Send migrates the sources to the peer that dialer reaches, as one set: all
// of them run there in the end, or none. It returns when every goroutine that
// it started has ended.
//
// The report's Outcome says what may be done now; the error is nil exactly for
// handoff.Committed and is a *transport.Fault where the cause has a place.
// Cancelling ctx before COMMIT takes the devices back to RUNNING.
func Send(ctx context.Context, dialer transport.Dialer, sources []Source, opts *Options) (report.Report, error) {
	panic("engine is being written")
}
