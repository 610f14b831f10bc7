package record

import (
	"slices"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		want    Spread
		text    string
	}{
		{[]float64{5}, Spread{5, 5, 5}, "5.0 [5.0..5.0]"},
		{[]float64{9, 1, 5}, Spread{5, 1, 9}, "5.0 [1.0..9.0]"},
		{[]float64{4, 1, 2, 9}, Spread{3, 1, 9}, "3.0 [1.0..9.0]"},
	} {
		before := slices.Clone(c.samples)
		got := SpreadOf(c.samples)
		if got != c.want || got.Text(1) != c.text {
			t.Errorf("%v: %+v, %s", c.samples, got, got.Text(1))
		}
		if !slices.Equal(before, c.samples) {
			t.Errorf("%v became %v: rounds have lost their order", before, c.samples)
		}
	}
}
