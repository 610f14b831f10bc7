package reader

import (
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// phase is where the source's devices are.
type phase uint8

const (
	connecting phase = iota // nothing was touched yet
	entering                // on their way to PRE_COPY
	precopying              // drained while the guest runs
	pausing                 // the guest is being stopped
	quiescing               // on their way to PRE_COPY_P2P or RUNNING_P2P
	freezing                // those without P2P on their way to STOP_COPY
	stopping                // all others on their way to STOP_COPY
	draining                // STOP_COPY, on the way to the end of the streams
	drained                 // every stream was read to its end
	failed                  // given up while the guest runs
)

func (p phase) String() string {
	return [...]string{"connecting", "entering", "precopying", "pausing", "quiescing", "freezing", "stopping", "draining", "drained", "failed"}[p]
}

// limits are the figures that the switchover is decided by.
type limits struct {
	downtime   time.Duration
	maxPrecopy time.Duration
	maxRounds  int
}

// plan decides what the source's devices do next, up to the end of their
// streams. It is pure: step is given what happened and when, and answers with
// what to do.
type plan struct {
	limits  limits
	phase   phase
	began   time.Duration // when PRE_COPY was reached
	because string        // why PRE_COPY ended
	devices []planDevice
}

// planDevice is what the plan knows of one device.
type planDevice struct {
	features vfio.Features
	sent     uint64 // bytes drained, as of the last event
	applied  uint64 // bytes that the destination has written
	idle     bool   // was found drained at least once
	marked   bool   // its initial bytes were read to their end
	mark     uint64 // at this offset
	dirty    uint64
	rounds   int
	ended    bool
}

// Events of the plan.
type (
	connected struct{}              // lanes are open
	reached   struct{}              // every move of the last enter is done
	paused    struct{}              // the guest has stopped
	applied   struct{ at []uint64 } // bytes written at the destination, by device
	ticked    struct{}              // time passed
	ended     struct{ device int }  // a stream was read to its end
	wasIdle   struct {              // a device in PRE_COPY had nothing to read
		device  int
		offset  uint64
		pending vfio.Pending
	}
)

// Actions of the plan.
type (
	// enter moves devices, all at once; the answer, when all are there, is reached.
	enter struct{ moves []move }
	// pause stops the guest; the answer is paused.
	pause struct{}
	// endStream tells the destination that a stream is whole.
	endStream struct{ device int }
	// allDrained tells the hand-off so.
	allDrained struct{}
	// giveUp ends the attempt.
	giveUp struct{ why string }
)

// move is one device's part of a transition.
type move struct {
	device int
	to     vfio.State
}

func newPlan(l limits, features []vfio.Features) plan {
	p := plan{limits: l, devices: make([]planDevice, len(features))}
	for i, f := range features {
		p.devices[i].features = f
	}
	return p
}

// step is the whole of the plan's behaviour.
func (p *plan) step(now time.Duration, ev any) []any {
	switch ev := ev.(type) {
	case connected:
		return p.connected()
	case reached:
		return p.reached(now)
	case paused:
		return p.paused()
	case wasIdle:
		p.idle(ev)
	case applied:
		for i, n := range ev.at {
			p.devices[i].applied = n
		}
	case ended:
		return p.ended(ev.device)
	}
	return p.decide(now)
}

func (p *plan) connected() []any {
	moves := p.moves(func(f vfio.Features) vfio.State {
		if f.PreCopy {
			return vfio.PreCopy
		}
		return vfio.Running
	})
	if len(moves) > 0 {
		p.phase = entering
		return []any{enter{moves}}
	}
	p.because = "no device has PRE_COPY"
	p.phase = pausing
	return []any{pause{}}
}

// decide ends PRE_COPY when the destination holds every device's initial bytes
// and the rest fits the downtime limit, or when the caps say that it never will.
// As long as initial bytes are known to be missing the guest is not stopped: only
// when they are applied is it known that the destination takes this state.
func (p *plan) decide(now time.Duration) []any {
	if p.phase != precopying {
		return nil
	}
	switch took := now - p.began; {
	case took >= p.limits.maxPrecopy && p.initialMissing():
		p.phase = failed
		return []any{giveUp{"PRE_COPY reached its time limit, and the destination has not applied the initial bytes"}}
	case took >= p.limits.maxPrecopy:
		p.because = "PRE_COPY reached its time limit"
	case !p.initialApplied():
		return nil
	case p.rounds() >= p.limits.maxRounds:
		p.because = "PRE_COPY reached its limit of rounds"
	case p.fits(took):
		p.because = "the rest fits the downtime limit"
	default:
		return nil
	}
	p.phase = pausing
	return []any{pause{}}
}

// rounds is the most that any device has been through, and none as long as
// some device is in its first: the rounds of a small one say nothing of it.
func (p *plan) rounds() (most int) {
	for _, d := range p.devices {
		if d.features.PreCopy && !d.idle {
			return 0
		}
		most = max(most, d.rounds)
	}
	return most
}

// initialApplied reports whether the destination has applied the initial bytes
// of every device: both sides now know that the states are compatible.
func (p *plan) initialApplied() bool {
	for _, d := range p.devices {
		if d.features.PreCopy && !(d.idle && d.marked && d.applied >= d.mark) {
			return false
		}
	}
	return true
}

// initialMissing reports whether some device is known to have initial bytes that
// the destination has not applied. Of one that was never idle nothing is known.
func (p *plan) initialMissing() bool {
	for _, d := range p.devices {
		if d.features.PreCopy && d.idle && !(d.marked && d.applied >= d.mark) {
			return true
		}
	}
	return false
}

// fits reports whether what is dirty or on its way would arrive within the
// downtime limit, at the rate seen so far.
func (p *plan) fits(took time.Duration) bool {
	var left, done uint64
	for _, d := range p.devices {
		left += d.dirty + d.sent - min(d.sent, d.applied)
		done += d.applied
	}
	if left == 0 {
		return true
	}
	rate := float64(done) / max(took.Seconds(), 1e-3)
	return float64(left) <= rate*p.limits.downtime.Seconds()
}

// idle takes in an estimate. A device that was initialised anew (REINIT), or
// whose estimate says so, has initial bytes again and loses its mark.
func (p *plan) idle(ev wasIdle) {
	d := &p.devices[ev.device]
	if ev.offset > d.sent || !d.idle {
		d.rounds++
	}
	d.idle, d.sent, d.dirty = true, ev.offset, ev.pending.Dirty
	switch fresh := ev.pending.Initial > 0 || ev.pending.Reinit; {
	case fresh:
		d.marked = false
	case !d.marked:
		d.marked, d.mark = true, ev.offset
	}
}

func (p *plan) reached(now time.Duration) []any {
	switch p.phase {
	case entering:
		p.phase, p.began = precopying, now
	case quiescing:
		return p.quiesced()
	case freezing:
		return p.stop(func(f vfio.Features) bool { return f.P2P })
	case stopping:
		p.phase = draining
		return p.whole()
	}
	return nil
}

// paused starts the P2P barrier: no device may be frozen while another could
// still reach it by DMA.
func (p *plan) paused() []any {
	p.phase = quiescing
	moves := p.moves(func(f vfio.Features) vfio.State {
		switch {
		case !f.P2P:
			return vfio.Running
		case f.PreCopy:
			return vfio.PreCopyP2P
		}
		return vfio.RunningP2P
	})
	if len(moves) == 0 {
		return p.quiesced()
	}
	return []any{enter{moves}}
}

// quiesced stops first what initiates DMA to the end: a device that has P2P
// still answers it.
func (p *plan) quiesced() []any {
	var with, without bool
	for _, d := range p.devices {
		with, without = with || d.features.P2P, without || !d.features.P2P
	}
	if with && without {
		p.phase = freezing
		return p.enter(vfio.StopCopy, func(f vfio.Features) bool { return !f.P2P })
	}
	return p.stop(func(vfio.Features) bool { return true })
}

func (p *plan) stop(which func(vfio.Features) bool) []any {
	p.phase = stopping
	return p.enter(vfio.StopCopy, which)
}

func (p *plan) enter(to vfio.State, which func(vfio.Features) bool) []any {
	return []any{enter{p.moves(func(f vfio.Features) vfio.State {
		if which(f) {
			return to
		}
		return vfio.Running
	})}}
}

func (p *plan) ended(device int) []any {
	p.devices[device].ended = true
	return append([]any{endStream{device}}, p.whole()...)
}

// whole is the end of the plan. A device's stream may end before the other
// devices have reached STOP_COPY.
func (p *plan) whole() []any {
	for i := range p.devices {
		if !p.devices[i].ended {
			return nil
		}
	}
	if p.phase != draining {
		return nil
	}
	p.phase = drained
	return []any{allDrained{}}
}

// moves lists where each device goes; RUNNING stands for staying put.
func (p *plan) moves(to func(vfio.Features) vfio.State) (moves []move) {
	for i, d := range p.devices {
		if s := to(d.features); s != vfio.Running {
			moves = append(moves, move{i, s})
		}
	}
	return moves
}
