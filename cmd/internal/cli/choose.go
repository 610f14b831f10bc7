package cli

import (
	"context"
	"errors"
	"math"
	"strings"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// carrying is the event that says which carrier was chosen, and why.
const carrying report.Kind = "carrier"

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

// candidates measures the carriers to a destination at autoPrefix.
func (s *sendFlags) candidates(ctx context.Context, end endpoint, devices []opened, show *show) []reader.Candidate {
	quic, tls := end.dialers()
	all := reader.Choose(ctx, quic, tls, s.sources(devices), s.options(devices, nil))
	show.carrying(all)
	return all
}

// dialer gives the dialler of the only carrier, or of the better one.
func (s *sendFlags) dialer(ctx context.Context, end endpoint, devices []opened, show *show) transport.Dialer {
	if end.prefix != autoPrefix {
		return end.dialer()
	}
	return s.candidates(ctx, end, devices, show)[0].Dialer
}

// preflight asks over the only carrier, or over both.
func (s *sendFlags) preflight(ctx context.Context, end endpoint, devices []opened, show *show) (report.Preflight, error) {
	if end.prefix != autoPrefix {
		return reader.Preflight(ctx, end.dialer(), s.sources(devices), s.options(devices, show.observe))
	}
	chosen := s.candidates(ctx, end, devices, show)[0]
	return chosen.Found, chosen.Err
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
