package cli

import (
	"context"
	"errors"
	"math"
	"strings"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// carrying is the event that says which carrier was chosen, and why.
const carrying migration.Kind = "carrier"

// jsonCarrying has the carriers that were asked, the chosen one first.
type jsonCarrying struct {
	jsonHead
	Chosen   string          `json:"chosen"`
	Measured []jsonCandidate `json:"measured"`
}

// jsonCandidate has no rate that could not be measured.
type jsonCandidate struct {
	Name  string  `json:"name"`
	RTTMS float64 `json:"rtt_ms,omitempty"`
	Rate  float64 `json:"rate_bytes_per_s,omitempty"`
	Error string  `json:"error,omitempty"`
}

// measure looks at both carriers of a dialler, which then prefers the better one.
func (s *sendFlags) measure(ctx context.Context, d *transport.EitherDialer, devices []opened, observe migration.Observer, show *show) ([]reader.Candidate, error) {
	o := s.options(devices, migration.Attempt{}, show)
	o.Observe = observe
	all, err := reader.Choose(ctx, d, s.sources(devices), o)
	if err == nil && ctx.Err() == nil {
		show.carrying(all)
	}
	return all, err
}

// dialer is what the migration dials with. The error is that nobody answers a migration
// that has not begun; whatever else is wrong, it will say.
func (s *sendFlags) dialer(ctx context.Context, end endpoint, o *outgoing, devices []opened, show *show) (transport.Dialer, error) {
	d := end.dialer(s.lookup())
	if either, ok := d.(*transport.EitherDialer); ok && o.journal.Last().Record == handoff.None {
		connects := func(ev migration.Event) { // the rest the migration tells
			if ev.Phase == migration.Connect {
				show.observe(ev)
			}
		}
		if _, err := s.measure(ctx, either, devices, connects, show); errors.Is(err, transport.ErrUnreachable) {
			return nil, err
		}
	}
	return d, nil
}

// preflight asks over the only carrier, or over both.
func (s *sendFlags) preflight(ctx context.Context, end endpoint, devices []opened, show *show) (migration.Preflight, error) {
	d := end.dialer(s.lookup())
	either, ok := d.(*transport.EitherDialer)
	if !ok {
		return reader.Preflight(ctx, d, s.sources(devices), s.options(devices, migration.Attempt{}, show))
	}
	all, err := s.measure(ctx, either, devices, show.observe, show)
	if err != nil {
		return migration.Preflight{}, err
	}
	return all[0].Found, all[0].Err
}

// carryingText is the chosen carrier, and what was found of each that was asked.
func carryingText(all []reader.Candidate) string {
	texts := make([]string, len(all))
	for i, c := range all {
		switch {
		case errors.Is(c.Err, transport.ErrUnreachable):
			texts[i] = c.Carrier + ": nobody answers"
		case c.Err != nil:
			texts[i] = c.Carrier + ": " + errorText(c.Err)
		case c.Found.Rate > 0:
			texts[i] = c.Carrier + ": " + humanRate(c.Found.Rate) + ", " + fineTime(c.Found.RTT)
		default:
			texts[i] = c.Carrier + ": " + fineTime(c.Found.RTT)
		}
	}
	return all[0].Carrier + " (" + strings.Join(texts, "; ") + ")"
}

func newJSONCarrying(head jsonHead, all []reader.Candidate) jsonCarrying {
	j := jsonCarrying{head, all[0].Carrier, make([]jsonCandidate, len(all))}
	for i, c := range all {
		j.Measured[i] = jsonCandidate{Name: c.Carrier, RTTMS: milliseconds(c.Found.RTT), Rate: math.Round(c.Found.Rate)}
		if c.Err != nil {
			j.Measured[i].Error = errorText(c.Err)
		}
	}
	return j
}
