package reader

import (
	"context"
	"errors"
	"slices"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// Candidate is a carrier that a migration may go over.
type Candidate struct {
	Carrier string // "quic" or "tls"
	Dialer  transport.Dialer
	Found   report.Preflight // over it, if Err is nil
	Err     error            // why no migration over it would begin
}

// clearly is how much faster TLS has to be than QUIC: what is measured in a second is off
// by some part, and a path may get worse.
const clearly = 1.25

// Choose has a [Preflight] over QUIC, and over TLS where that may be better, and gives
// those that it had, the one to migrate over first. That is QUIC, which lives with paths
// that are long, or lose packets, or change, unless nobody answers there, or the path is
// near and TLS carried clearly more. What a destination has to say against the migration
// is in the first one's Err; [Send] would hear it too.
//
// Of a migration that is gone on with, by sources that do not run, nothing is measured:
// only who answers counts.
//
// The destination may listen to one carrier, or to both ([transport.ListenEither]).
func Choose(ctx context.Context, quic, tls transport.Dialer, sources []Source, opts *Options) []Candidate {
	o, err := mayBegin(sources, opts)
	try := func(carrier string, d transport.Dialer) Candidate {
		if err != nil {
			return Candidate{Carrier: carrier, Dialer: d, Err: hears(ctx, d, err)}
		}
		found, err := askOver(ctx, d, sources, o)
		return Candidate{carrier, d, found, err}
	}
	q := try("quic", quic)
	if !q.leavesOpen() || ctx.Err() != nil {
		return []Candidate{q}
	}
	all := []Candidate{q, try("tls", tls)}
	if all[1].beats(q) {
		slices.Reverse(all)
	}
	return all
}

// hears is err, or why nobody answers.
func hears(ctx context.Context, d transport.Dialer, err error) error {
	lane, failed := d.Dial(ctx)
	if failed != nil {
		return &transport.Fault{Code: transport.CodeOf(failed), Err: failed}
	}
	lane.Close()
	return err
}

// leavesOpen reports whether the other carrier may be better: nobody need be told twice
// that a migration would be refused.
func (c Candidate) leavesOpen() bool {
	if c.Err == nil {
		return c.Found.RTT < near
	}
	f, ok := errors.AsType[*transport.Fault](c.Err)
	return ok && !f.Remote && (f.Code == transport.CodeNetwork || f.Code == transport.CodeTimeout)
}

// beats reports whether TLS, which c is, is the better one on a near path.
func (c Candidate) beats(quic Candidate) bool {
	unreached := func(err error) bool { return errors.Is(err, transport.ErrUnreachable) }
	switch {
	case c.Err == nil && quic.Err == nil:
		return c.Found.Rate > clearly*quic.Found.Rate
	case c.Err == nil:
		return true
	}
	return unreached(quic.Err) && !unreached(c.Err)
}
