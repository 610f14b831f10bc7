package main

import (
	"fmt"
	"slices"
)

// spread is what several samples of a figure come to.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf wants one sample at least. The median of an even number is the mean of the two
// in the middle.
func spreadOf(samples []float64) spread {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1]}
}

// text is median [min..max], with so many digits behind the point.
func (s spread) text(digits int) string {
	return fmt.Sprintf("%.*f [%.*f..%.*f]", digits, s.Median, digits, s.Min, digits, s.Max)
}

// ratio compares the rates of two ways, round by round: what slows a round down strikes
// both.
type ratio struct {
	Of      string    `json:"of"`
	To      string    `json:"to"`
	Rounds  []float64 `json:"rounds"`
	Summary spread    `json:"summary"`
}

// ratioOf pairs the samples of the same round.
func ratioOf(of, to outcome) ratio {
	r := ratio{Of: of.Name, To: to.Name}
	for i := range min(len(of.Samples), len(to.Samples)) {
		r.Rounds = append(r.Rounds, of.Samples[i].Rate/to.Samples[i].Rate)
	}
	r.Summary = spreadOf(r.Rounds)
	return r
}

// compared are the names of the ways that ratios are given of, on a host of so many cores.
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
