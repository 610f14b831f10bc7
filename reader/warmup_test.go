package reader

import (
	"testing"
	"time"
)

// TestRamp checks that padding ends when the path is full, and that its rate is that of the full
// path.
func TestRamp(t *testing.T) {
	const most = 100 << 20 // bytes per second
	for _, c := range []struct {
		name string
		rtt  time.Duration
		rate func(at time.Duration) float64 // of arrival
		from time.Duration                  // the earliest end
		by   time.Duration
	}{
		{"open from the beginning", time.Millisecond, func(time.Duration) float64 { return most }, 0, 100 * ms},
		{"slow start over 10 ms", 10 * ms, slowStart(10 * ms), 70 * ms, 200 * ms},
		{"slow start over 100 ms", 100 * ms, slowStart(100 * ms), 700 * ms, 1600 * ms},
		{"nothing arrives at first", time.Millisecond, func(at time.Duration) float64 {
			if at < 200*ms {
				return 0
			}
			return most
		}, 200 * ms, 400 * ms},
	} {
		r, arrived, now := newRamp(c.rtt), 0.0, time.Duration(0)
		for open := false; !open && now < 10*time.Second; open = r.observe(now, uint64(arrived)) {
			now += ms
			arrived += c.rate(now) * ms.Seconds()
		}
		if now < c.from || now > c.by {
			t.Errorf("%s: it took %v, want %v to %v", c.name, now, c.from, c.by)
		}
		got, took := r.rate(now, uint64(arrived))
		if rate := float64(got) / took.Seconds(); rate < 0.8*most || rate > 1.05*most {
			t.Errorf("%s: %.0f bytes per second, want %d", c.name, rate, most)
		}
	}
}

// TestTrip checks that the shortest round trip counts. A round trip that waited behind data raises
// it by an eighth a second at most, so that a longer path is noticed.
func TestTrip(t *testing.T) {
	var m meter
	now := time.Unix(1000, 0)
	for _, d := range []time.Duration{5 * ms, 2 * ms, 40 * ms, 30 * ms} {
		m.noteRTT(now, d)
		now = now.Add(10 * ms)
	}
	if m.rtt != 2*ms {
		t.Errorf("%v after a burst", m.rtt)
	}
	for range 60 * 100 {
		m.noteRTT(now, 10*ms)
		now = now.Add(10 * ms)
	}
	if m.rtt < 9*ms {
		t.Errorf("%v after a minute of 10 ms", m.rtt)
	}
}

// slowStart doubles the rate in each round trip, from some packets on.
func slowStart(rtt time.Duration) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		window := 40e3
		for t := rtt; t < at; t += rtt {
			window *= 2
		}
		return min(window/rtt.Seconds(), 100<<20)
	}
}

// TestRampCutShort checks the rate of padding that ended before its first round, and of a path that
// stalled in its rounds: before any byte had arrived, or after a few had.
func TestRampCutShort(t *testing.T) {
	for name, c := range map[string]struct {
		seen  []uint64 // after each round of 200 ms
		ended time.Duration
	}{
		"no round":                    {nil, 150 * ms},
		"nothing arrived in a round":  {[]uint64{0}, 300 * ms},
		"nothing arrived at first":    {[]uint64{0, 0, 0, 0, 0}, 1100 * ms},
		"a little arrived, then none": {[]uint64{10, 10, 10, 10, 10}, 1100 * ms},
	} {
		r := newRamp(100 * ms)
		for i, n := range c.seen {
			if r.observe(time.Duration(i+1)*200*ms, n) {
				t.Errorf("%s: open", name)
			}
		}
		if got, took := r.rate(c.ended, 1000); got != 1000 || took != c.ended {
			t.Errorf("%s: %d bytes in %v, want 1000 in %v", name, got, took, c.ended)
		}
	}
}
