package reader

import (
	"math"
	"time"
)

// fading is the time after which a measurement counts for a third.
const fading = time.Second

// least is how many bytes a measurement of speed needs to mean anything.
const minBytes = 128 << 10

// speed is in bytes a second: what came, over the time that it took, the
// past counting less and less.
type speed struct {
	bytes, seconds float64
	seen           uint64 // bytes in all
}

// add takes in n bytes that took d.
func (r *speed) add(n uint64, d time.Duration) {
	fade := math.Exp(-d.Seconds() / fading.Seconds())
	r.bytes, r.seconds = r.bytes*fade+float64(n), r.seconds*fade+d.Seconds()
	r.seen += n
}

// set forgets the past for n bytes that took d.
func (r *speed) set(n uint64, d time.Duration) {
	*r = speed{float64(n), d.Seconds(), max(n, minBytes)}
}

// value is the rate, 0 as long as too little was seen.
func (r *speed) value() float64 {
	if r.seen < minBytes || r.bytes == 0 {
		return 0
	}
	return r.bytes / r.seconds // infinite where it took no time at all
}

// span is the least time that a look at the path is about: what arrives, and what
// is told of it, comes in bursts.
const minSpan = 20 * time.Millisecond

// meter measures how fast the way to the destination's devices is.
type meter struct {
	full speed // applied, while the way was full
	some speed // applied, while something was on its way
	any  speed // applied, in all
	rtt  time.Duration

	rttAt time.Time // when rtt was last changed

	since   time.Time // the look under way
	applied uint64    // in all, by then
	least   uint64    // on its way since, at the least

	begun time.Time // when the bytes that were sent were first looked at
}

// total makes a speed of what is counted from the beginning.
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

// mean is the speed over all of the time: a device saves as fast as it does.
func (t *rateTotal) mean() float64 {
	if t.bytes < minBytes {
		return 0
	}
	return float64(t.bytes) / t.took.Seconds()
}

// finite leaves out the rate of what took no time.
func finite(rate float64) float64 {
	if math.IsInf(rate, 0) || math.IsNaN(rate) {
		return 0
	}
	return rate
}

// look takes in how much was read and applied by now, in all. From enough bytes
// on, the way is full.
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

// goodput is the rate of a way that is full; of one that never was, what came
// through it at least.
func (m *meter) goodput() float64 {
	for _, s := range []*speed{&m.full, &m.some, &m.any} {
		if rate := s.value(); rate > 0 {
			return rate
		}
	}
	return 0
}

// filled reports whether goodput is that of a way that was full.
func (m *meter) wasFull() bool { return m.full.value() > 0 }

// trip takes in a round trip. What the hand-over will take is a quiet one, so that
// one which waited behind data counts little, and once a second at most: a way that
// has become longer is found out nevertheless.
func (m *meter) noteRTT(now time.Time, d time.Duration) {
	switch {
	case d <= 0:
	case m.rtt == 0 || d < m.rtt:
		m.rtt, m.rttAt = d, now
	case now.Sub(m.rttAt) > time.Second:
		m.rtt, m.rttAt = m.rtt+(d-m.rtt)/8, now
	}
}
