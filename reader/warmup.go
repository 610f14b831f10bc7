package reader

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
)

// warmup pads lanes that have carried too little for a measurement. Padding opens their congestion
// windows before the switchover, at no cost in downtime, and measures them.
type warmup struct {
	ramp
	began   time.Time
	frame   int    // bytes of one frame of padding
	frames  int    // number of frames that may be sent
	arrived uint64 // bytes
	sent    uint64 // bytes, once over
	over    bool   // no further padding is sent
	done    bool   // all padding has arrived
	ended   time.Time
}

// paddingTimeout is how long sent padding may take to arrive.
const paddingTimeout = 4 * time.Second

// paddingFrame is the largest frame of padding: enough to keep a lane busy, and small beside the
// bytes of one round of ramp.
const paddingFrame = 256 << 10

// startWarmup makes the lanes send padding.
func (p *pipeline) startWarmup() {
	p.warmup = &warmup{ramp: newRamp(p.meter.rtt), began: time.Now(), frame: p.paddingSize, frames: wire.MaxProbe / p.paddingSize}
	p.queue.pad(p.warmup.frames)
}

// paddingSent is the number of bytes of padding that the lanes were given.
func (p *pipeline) paddingSent() uint64 {
	if p.warmup.over {
		return p.warmup.sent
	}
	return uint64(p.warmup.frames-p.queue.pendingPadding()) * uint64(p.warmup.frame)
}

// isBehindPadding reports whether a round trip may have waited behind padding. began is its start,
// in ns after the pipeline's start.
func (p *pipeline) isBehindPadding(began int64) bool {
	w := p.warmup
	return w != nil && (!w.done || p.start.Add(time.Duration(began)).Before(w.ended))
}

// notePadding takes the bytes of padding that the destination has read.
func (p *pipeline) notePadding(bytes uint64) {
	if p.warmup != nil {
		p.warmup.arrived = max(p.warmup.arrived, min(bytes, p.paddingSent()))
	}
}

// finishWarmup ends the padding when its rate no longer grows. It reports, once, that the last
// padding has arrived.
func (p *pipeline) finishWarmup(now time.Time) bool {
	w := p.warmup
	if w == nil || w.done {
		return false
	}
	took := now.Sub(w.began)
	most := uint64(w.frames) * uint64(w.frame)
	if !w.over && (w.observe(took, w.arrived) || took >= wire.ProbeTime || w.arrived >= most) {
		w.over, w.sent = true, most-uint64(p.queue.pad(0))*uint64(w.frame)
	}
	if !w.over || w.arrived < w.sent && took < wire.ProbeTime+paddingTimeout {
		return false
	}
	w.done, w.ended = true, now
	p.meter.full.set(w.rate(took, w.arrived))
	return true
}

// ramp watches the rate at which padding arrives until it no longer grows: then the congestion
// windows are open.
type ramp struct {
	round time.Duration // length of a round: long enough for the windows to double
	since time.Duration // start of this round
	bytes uint64        // arrived by then
	best  float64       // highest rate of a round so far, in bytes per second

	flat     int           // rounds since the last one that was faster by a quarter
	flatTook time.Duration // time of these rounds, or of the faster one
	flatGot  uint64        // bytes of these rounds
}

// newRamp makes rounds of two round trips, and of 30 ms at least: bytes arrive in bursts.
func newRamp(rtt time.Duration) ramp { return ramp{round: max(2*rtt, 30*time.Millisecond)} }

// observe takes the bytes that have arrived by now. It reports whether their rate no longer grows.
func (r *ramp) observe(now time.Duration, arrived uint64) (open bool) {
	took := now - r.since
	if took < r.round {
		return false
	}
	got := arrived - r.bytes
	rate := float64(got) / took.Seconds()
	r.since, r.bytes = now, arrived
	if rate > r.best*1.25 {
		r.flat, r.flatTook, r.flatGot = 0, 0, 0
	} else {
		r.flat++
	}
	r.best = max(r.best, rate)
	r.flatTook, r.flatGot = r.flatTook+took, r.flatGot+got
	return r.flat >= 2 && got > 0
}

// rate is the bytes and the time that the rate of the path is computed from: the flat rounds, or
// all rounds if those were faster. A path may stall in the flat rounds, and no round may have
// ended.
func (r *ramp) rate(now time.Duration, arrived uint64) (uint64, time.Duration) {
	if float64(arrived)*r.flatTook.Seconds() >= float64(r.flatGot)*now.Seconds() {
		return arrived, now
	}
	return r.flatGot, r.flatTook
}
