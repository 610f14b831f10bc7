package reader

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Candidate is a carrier for a migration.
type Candidate struct {
	Carrier string              // "quic" or "tls"
	Found   migration.Preflight // the preflight over it, if Err is nil
	Err     error               // why a migration over it would not begin
}

// tlsAdvantage is how much faster than QUIC TLS must be. A measurement of a second has an error,
// and a path may get worse.
const tlsAdvantage = 1.25

// nearDialLimit bounds the dial over TLS, if the destination answered over QUIC within [nearRTT].
const nearDialLimit = time.Second

// Choose runs a [Preflight] over QUIC, and one over TLS if TLS may be better. It makes d prefer the
// better carrier, and returns the candidates, that carrier first. QUIC copes with long, lossy and
// changing paths, so it wins unless it does not get through, or the path is near and TLS carried
// clearly more. If the destination would refuse the migration, the first candidate's Err says why;
// [Send] would return the same.
//
// The error says why nothing could be measured: [transport.ErrUnreachable] if neither carrier
// reaches a destination within ConnectFor, [transport.ErrAuth] if another peer answers, or the
// error of [Preflight] about the sources. Options.Observe receives the events of the first
// Preflight. A migration that continues needs no Choose: d finds the carrier that answers.
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

// tryTLS runs the second preflight.
func tryTLS(ctx context.Context, d *transport.EitherDialer, sources []Source, o Options, quic Candidate) Candidate {
	o.Attempt = migration.Attempt{Mig: migration.NewID(), Epoch: 1} // lanes of the first preflight may still arrive
	o.Observe = func(migration.Event) {}
	if quic.Err == nil {
		o.ConnectFor = min(o.ConnectFor, nearDialLimit)
	}
	c := tryCarrier(ctx, d.TLS, sources, o)
	c.Carrier = "tls"
	return c
}

// tryCarrier runs a preflight. The carrier has no name if no destination answers.
func tryCarrier(ctx context.Context, d transport.Dialer, sources []Source, o Options) Candidate {
	found, err := runPreflight(ctx, d, sources, o)
	return Candidate{found.Carrier.Name, found, err}
}

// mayBeBeaten reports whether TLS may be better than QUIC, which c is. A refusal by the destination
// needs no second preflight.
func (c Candidate) mayBeBeaten() bool {
	if c.Err == nil {
		return c.Found.RTT < nearRTT
	}
	return c.isCut()
}

// isCut reports whether the path ended the preflight.
func (c Candidate) isCut() bool {
	f, ok := errors.AsType[*transport.Fault](c.Err)
	return ok && !f.Remote && (f.Code == transport.CodeNetwork || f.Code == transport.CodeTimeout)
}

// beats reports whether TLS, which c is, is better than QUIC. If QUIC was cut off, a destination
// that declines over TLS has answered at least: it answers one preflight at a time, and may not
// have noticed the end of the first.
func (c Candidate) beats(quic Candidate) bool {
	if c.Err == nil && quic.Err == nil {
		return c.Found.Rate > tlsAdvantage*quic.Found.Rate
	}
	f, answered := errors.AsType[*transport.Fault](c.Err)
	return quic.Err != nil && (c.Err == nil || answered && f.Remote)
}
