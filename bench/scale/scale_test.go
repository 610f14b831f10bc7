package scale

import (
	"math"
	"testing"
	"time"
)

// costs have the magnitude of the README's machine.
var costs = Costs{Source: 1.8, Destination: 1.8, Lane: 1, Drain: 0.115, Socket: 0.25}

func TestBinding(t *testing.T) {
	wide := Setting{Cores: 128, Devices: 8, Lanes: 16, Sockets: 16, Memory: 1 << 30, Window: 14.52e6, Link: 50e9}
	for _, c := range []struct {
		name string
		set  func(*Setting)
		what string
		rate float64
	}{
		{"a slow link", func(s *Setting) { s.Link = 125e6 }, "the link", 125e6},
		{"two cores", func(s *Setting) { s.Cores = 2 }, "the source's cores", 2e9 / 1.8},
		{"two lanes", func(s *Setting) { s.Lanes = 2 }, "one goroutine a lane", 2e9},
		{"one device", func(s *Setting) { s.Devices = 1 }, "one reading thread a device", 1e9 / 0.115},
		{"one socket", func(s *Setting) { s.Sockets = 1 }, "one receiver a socket", 4e9},
		{"a long path", func(s *Setting) { s.RTT = 100 * time.Millisecond }, "the lanes' windows", 16 * 14.52e7},
		{"and little memory", func(s *Setting) { s.RTT, s.Memory = 100*time.Millisecond, 32<<20 }, "the memory for chunks", 320 << 20},
		{"and loss", func(s *Setting) { s.RTT, s.Loss = 100*time.Millisecond, 0.01 }, "loss", 16 * 1400 * math.Sqrt(150) / 0.1},
		{"nothing else", func(*Setting) {}, "one goroutine a lane", 16e9},
	} {
		s := wide
		c.set(&s)
		if got := Binding(Bounds(costs, s)); got.What != c.what || math.Abs(got.Rate-c.rate) > c.rate/1e6 {
			t.Errorf("%s: %s at %.4g B/s, want %s at %.4g", c.name, got.What, got.Rate, c.what, c.rate)
		}
	}
}

// TestNothingTakenIsNoBound: a cost of zero limits nothing.
func TestNothingTakenIsNoBound(t *testing.T) {
	for _, b := range Bounds(Costs{}, Setting{Link: math.Inf(1)}) {
		if !math.IsInf(b.Rate, 1) {
			t.Errorf("%s: %g", b.What, b.Rate)
		}
	}
}
