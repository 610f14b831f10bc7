package reader

import (
	"math"
	"time"
)

// fading is the time after which a measurement counts for a third.
const fading = time.Second

// minBytes is how many bytes a measurement of speed needs.
const minBytes = 128 << 10

// speed is in bytes a second: bytes over time, where older ones count less and less.
type speed struct {
	bytes, seconds float64
	seen           uint64 // bytes in all
}

// add takes n bytes that took d.
func (r *speed) add(n uint64, d time.Duration) {
	fade := math.Exp(-d.Seconds() / fading.Seconds())
	r.bytes, r.seconds = r.bytes*fade+float64(n), r.seconds*fade+d.Seconds()
	r.seen += n
}

// set discards the past, and takes n bytes that took d.
func (r *speed) set(n uint64, d time.Duration) {
	*r = speed{float64(n), d.Seconds(), max(n, minBytes)}
}

// value is the rate, 0 while too little was measured.
func (r *speed) value() float64 {
	if r.seen < minBytes || r.bytes == 0 {
		return 0
	}
	return r.bytes / r.seconds // infinite if it took no time
}

// minSpan is the shortest time that one observation of the path covers: bytes, and the reports of
// them, arrive in bursts.
const minSpan = 20 * time.Millisecond

// meter measures the rate of the path, up to the destination's devices.
type meter struct {
	full speed // bytes applied while the path was full
	some speed // bytes applied while some were in flight
	any  speed // bytes applied, in all
	rtt  time.Duration

	rttAt time.Time // when rtt last changed

	since   time.Time // start of the present observation
	applied uint64    // in all, by then
	least   uint64    // the fewest bytes in flight since

	begun time.Time // when the sent bytes were first observed
}

// rateTotal makes a speed of totals since the beginning.
type rateTotal struct {
	speed
	bytes uint64
	took  time.Duration
}

func (t *rateTotal) observe(bytes uint64, took time.Duration) {
	if bytes < t.bytes || took < t.took {
		return
	}
	t.add(bytes-t.bytes, took-t.took)
	t.bytes, t.took = bytes, took
}

// mean is the speed over the whole time: a device's own speed of saving does not change.
func (t *rateTotal) mean() float64 {
	if t.bytes < minBytes {
		return 0
	}
	return float64(t.bytes) / t.took.Seconds()
}

// finite replaces a rate without a time by 0.
func finite(rate float64) float64 {
	if math.IsInf(rate, 0) || math.IsNaN(rate) {
		return 0
	}
	return rate
}

// observe takes the bytes that were read and applied by now, in all. The path is full from enough
// bytes in flight on.
func (m *meter) observe(now time.Time, drained, applied, enough uint64) {
	took, busy := now.Sub(m.since), drained-min(drained, applied)
	m.least = min(m.least, busy)
	if took < minSpan {
		return
	}
	n := applied - min(applied, m.applied)
	if !m.since.IsZero() && (n > 0 || busy > 0) {
		m.any.add(n, took)
		if m.least > 0 {
			m.some.add(n, took)
		}
		if m.least >= enough {
			m.full.add(n, took)
		}
	}
	m.since, m.applied, m.least = now, applied, busy
}

// goodput is the rate of a full path. If the path never was full, it is a lower bound.
func (m *meter) goodput() float64 {
	for _, s := range []*speed{&m.full, &m.some, &m.any} {
		if rate := s.value(); rate > 0 {
			return rate
		}
	}
	return 0
}

// wasFull reports whether goodput is the rate of a full path.
func (m *meter) wasFull() bool { return m.full.value() > 0 }

// noteRTT takes a round trip. The switchover meets a quiet path, so a round trip that waited behind
// data counts little, and once a second at most. A path that has become longer is noticed
// nevertheless.
func (m *meter) noteRTT(now time.Time, d time.Duration) {
	switch {
	case d <= 0:
	case m.rtt == 0 || d < m.rtt:
		m.rtt, m.rttAt = d, now
	case now.Sub(m.rttAt) > time.Second:
		m.rtt, m.rttAt = m.rtt+(d-m.rtt)/8, now
	}
}
