package reader

import (
	"testing"
	"time"
)

func TestRateOf(t *testing.T) {
	for _, c := range []struct {
		name string
		seen []arrival
		want float64
	}{
		{"nothing arrived", []arrival{{0, 0}, {time.Second, 0}}, 0},
		{"one look", []arrival{{0, 100}}, 0},
		{"all at once", []arrival{{0, 0}, {100 * ms, 100}}, 1000},
		{"slow start", []arrival{{0, 0}, {100 * ms, 1}, {200 * ms, 20}, {300 * ms, 40}, {600 * ms, 100}}, 200},
	} {
		if got := rateOf(c.seen); got != c.want {
			t.Errorf("%s: %v bytes per second, want %v", c.name, got, c.want)
		}
	}
}
