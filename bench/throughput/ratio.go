package main

import "github.com/migpipe/migpipe/bench/internal/record"

// ratio compares the rates of two ways, round by round: other load affects both.
type ratio struct {
	Of      string        `json:"of"`
	To      string        `json:"to"`
	Rounds  []float64     `json:"rounds"`
	Summary record.Spread `json:"summary"`
}

// ratioOf pairs the samples of the same round.
func ratioOf(of, to outcome) ratio {
	r := ratio{Of: of.Name, To: to.Name}
	for i := range min(len(of.Samples), len(to.Samples)) {
		r.Rounds = append(r.Rounds, of.Samples[i].Rate/to.Samples[i].Rate)
	}
	r.Summary = record.SpreadOf(r.Rounds)
	return r
}

// compared names the pairs of ways with a ratio, on a host with that many cores.
func compared(host int) (pairs [][2]string) {
	for _, lanes := range []int{1, 2} {
		quic := pipeline{over: "quic", lanes: lanes, content: "random", codec: "raw"}.name()
		pairs = append(pairs, [2]string{quic, bareStock}, [2]string{quic, bareGRO})
	}
	pairs = append(pairs, [2]string{pairs[2][0], bareGRO2})
	for _, lanes := range []int{1, 2} {
		pairs = append(pairs, [2]string{pipeline{over: "tls", lanes: lanes, content: "random", codec: "raw"}.name(), bareTLS(lanes)})
	}
	for _, w := range wides(host) {
		pairs = append(pairs, [2]string{w.pipeline().name(), w.bare().Name})
	}
	return pairs
}
