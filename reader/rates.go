package reader

import (
	"math"
	"time"
)

// fading is the time after which a measurement counts for a third.
const fading = time.Second

// least is how many bytes a measurement of speed needs to mean anything.
const least = 128 << 10

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

// value is the rate, 0 as long as too little was seen.
func (r *speed) value() float64 {
	if r.seen < least {
		return 0
	}
	return r.bytes / r.seconds // infinite where it took no time at all
}

// meter measures how fast the way to the destination's devices is.
type meter struct {
	full    speed // applied, while the way was full
	some    speed // applied, while something was on its way
	rtt     time.Duration
	at      time.Time // of the last look
	applied uint64    // in all, then
	busy    uint64    // how much was on its way, then
	saves   []cumulative
	loads   []cumulative
}

// cumulative makes a rate of totals.
type cumulative struct {
	speed
	bytes uint64
	took  time.Duration
}

func (c *cumulative) look(bytes uint64, took time.Duration) {
	if bytes < c.bytes || took < c.took {
		return
	}
	c.add(bytes-c.bytes, took-c.took)
	c.bytes, c.took = bytes, took
}

func newMeter(devices int) meter {
	return meter{saves: make([]cumulative, devices), loads: make([]cumulative, devices)}
}

// look takes in how much was read and applied by now, in all. From enough bytes
// on, the way is full.
func (m *meter) look(now time.Time, drained, applied, enough uint64) {
	n, took := applied-min(applied, m.applied), now.Sub(m.at)
	if m.busy > 0 {
		m.some.add(n, took)
	}
	if m.busy >= enough {
		m.full.add(n, took)
	}
	m.at, m.applied, m.busy = now, applied, drained-min(drained, applied)
}

// goodput is the rate of a way that is full; of one that never was, what came
// through it at least.
func (m *meter) goodput() float64 {
	if full := m.full.value(); full > 0 {
		return full
	}
	return m.some.value()
}

// trip takes in a round trip. One that waited behind data counts less than a
// quick one: what the hand-over will take is a quiet one.
func (m *meter) trip(d time.Duration) {
	switch {
	case d <= 0:
	case m.rtt == 0 || d < m.rtt:
		m.rtt = d
	default:
		m.rtt += (d - m.rtt) / 8
	}
}
