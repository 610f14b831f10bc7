package reader

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Candidate is a carrier that a migration may go over.
type Candidate struct {
	Carrier string              // "quic" or "tls"
	Found   migration.Preflight // over it, if Err is nil
	Err     error               // why no migration over it would begin
}

// clearly is how much faster TLS has to be than QUIC: what is measured in a second is off
// by some part, and a path may get worse.
const tlsAdvantage = 1.25

// nearLimit is what reaching the destination over TLS may take where it has answered over QUIC
// within [near].
const nearDialLimit = time.Second

// Choose has a [Preflight] over QUIC, and over TLS where that may be better, has d prefer the
// one to migrate over, and gives what was found, of that one first. It is QUIC, which lives
// with paths that are long, or lose packets, or change, unless it does not get through, or
// the path is near and TLS carried clearly more. What a destination has to say against the
// migration is in the first one's Err; [Send] would hear it too.
//
// The error says why nothing could be measured: [transport.ErrUnreachable] where nobody
// answers on either carrier within ConnectFor, [transport.ErrAuth] where a stranger does,
// or what [Preflight] says of the sources.
// Those of a migration that is gone on with are not measured for: d finds who answers.
// Options.Observe is told of the first Preflight.
func Choose(ctx context.Context, d *transport.EitherDialer, sources []Source, opts *Options) ([]Candidate, error) {
	o, err := checkStart(sources, opts)
	if err != nil {
		return nil, err
	}
	d.PreferQUIC()
	first := tryCarrier(ctx, d, sources, o)
	if first.Carrier == "" {
		return nil, first.Err
	}
	all := []Candidate{first}
	if first.Carrier == "quic" && first.mayBeBeaten() && ctx.Err() == nil {
		all = append(all, tryTLS(ctx, d, sources, o, first))
		if all[1].beats(first) {
			slices.Reverse(all)
		}
	}
	if all[0].Carrier == "tls" {
		d.PreferTLS()
	}
	return all, nil
}

// overTLS is what a second preflight finds.
func tryTLS(ctx context.Context, d *transport.EitherDialer, sources []Source, o Options, quic Candidate) Candidate {
	o.Attempt = migration.Attempt{Mig: migration.NewID(), Epoch: 1} // lanes of the first may still be under way
	o.Observe = func(migration.Event) {}
	if quic.Err == nil {
		o.ConnectFor = min(o.ConnectFor, nearDialLimit)
	}
	c := tryCarrier(ctx, d.TLS, sources, o)
	c.Carrier = "tls"
	return c
}

// candidate is what a preflight finds of a carrier, which has no name if nobody answers.
func tryCarrier(ctx context.Context, d transport.Dialer, sources []Source, o Options) Candidate {
	found, err := runPreflight(ctx, d, sources, o)
	return Candidate{found.Carrier.Name, found, err}
}

// leavesOpen reports whether TLS may be better than QUIC, which c is: nobody need be told
// twice that a migration would be refused.
func (c Candidate) mayBeBeaten() bool {
	if c.Err == nil {
		return c.Found.RTT < nearRTT
	}
	return c.isCut()
}

// isCut reports whether it was the path that ended the preflight.
func (c Candidate) isCut() bool {
	f, ok := errors.AsType[*transport.Fault](c.Err)
	return ok && !f.Remote && (f.Code == transport.CodeNetwork || f.Code == transport.CodeTimeout)
}

// beats reports whether TLS, which c is, is better than QUIC, which leaves that open.
// Where QUIC was cut off, a destination that declines over TLS has answered at least: it may
// not have noticed yet, and answers one preflight at a time.
func (c Candidate) beats(quic Candidate) bool {
	if c.Err == nil && quic.Err == nil {
		return c.Found.Rate > tlsAdvantage*quic.Found.Rate
	}
	f, answered := errors.AsType[*transport.Fault](c.Err)
	return quic.Err != nil && (c.Err == nil || answered && f.Remote)
}
