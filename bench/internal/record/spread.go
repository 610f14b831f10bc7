package record

import (
	"fmt"
	"slices"
)

// Spread summarises several samples of a figure.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf requires at least one sample. The median of an even number of samples is the mean
// of the two in the middle.
func SpreadOf(samples []float64) Spread {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return Spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1]}
}

// Text is median [min..max], with that many digits after the point.
func (s Spread) Text(digits int) string {
	return fmt.Sprintf("%.*f [%.*f..%.*f]", digits, s.Median, digits, s.Min, digits, s.Max)
}
