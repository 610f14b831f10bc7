package reader

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
)

// warmup pads lanes that have carried too little to be known: it opens their
// congestion windows before a stop, when nobody waits for that, and measures them.
type warmup struct {
	ramp
	began   time.Time
	frame   int    // bytes in a frame of padding
	frames  int    // that may be sent
	arrived uint64 // bytes
	sent    uint64 // in the end
	over    bool   // no more are sent
	done    bool   // and all have arrived
	ended   time.Time
}

// warmPatience is how long what was sent may take to arrive.
const paddingTimeout = 4 * time.Second

// paddingFrame is the most that goes as one frame of padding: enough to keep a lane
// busy, and little beside what a round of ramp sees.
const paddingFrame = 256 << 10

// warmUp has the lanes send padding.
func (p *pipeline) startWarmup() {
	p.warmup = &warmup{ramp: newRamp(p.meter.rtt), began: time.Now(), frame: p.paddingSize, frames: wire.MaxProbe / p.paddingSize}
	p.queue.pad(p.warmup.frames)
}

// padded is how many bytes of padding were given to the lanes.
func (p *pipeline) paddingSent() uint64 {
	if p.warmup.over {
		return p.warmup.sent
	}
	return uint64(p.warmup.frames-p.queue.pendingPadding()) * uint64(p.warmup.frame)
}

// padding reports whether a round trip that began at a time, in ns after the start, may have
// waited behind padding.
func (p *pipeline) isBehindPadding(began int64) bool {
	w := p.warmup
	return w != nil && (!w.done || p.start.Add(time.Duration(began)).Before(w.ended))
}

// arrived takes in how much padding the destination has read.
func (p *pipeline) notePadding(bytes uint64) {
	if p.warmup != nil {
		p.warmup.arrived = max(p.warmup.arrived, min(bytes, p.paddingSent()))
	}
}

// warmed looks how far the padding is, and reports whether the last of it has arrived by now.
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

// ramp watches how fast padding arrives, until that grows no more: the congestion
// windows are open then.
type ramp struct {
	round time.Duration // the time that is looked at at once: windows have doubled by then
	since time.Duration // when this one began
	bytes uint64        // that had arrived by then
	best  float64       // rate of a round so far, in bytes per second

	flat     int           // rounds since that was no faster by a quarter
	flatTook time.Duration // of them, or of the one that was
	flatGot  uint64
}

// newRamp makes rounds of two round trips, and long beside what comes in bursts.
func newRamp(rtt time.Duration) ramp { return ramp{round: max(2*rtt, 30*time.Millisecond)} }

// look takes in how much has arrived by now, and reports whether that grows no
// more.
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

// rate is how much arrived in which time: since that grew no more or, where that was
// quicker, in all: a path may stand still in its rounds, and no round may have ended.
func (r *ramp) rate(now time.Duration, arrived uint64) (uint64, time.Duration) {
	if float64(arrived)*r.flatTook.Seconds() >= float64(r.flatGot)*now.Seconds() {
		return arrived, now
	}
	return r.flatGot, r.flatTook
}
