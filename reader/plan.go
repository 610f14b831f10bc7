package reader

import (
	"time"

	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
)

// phase is where the source's devices are.
type phase uint8

const (
	connecting phase = iota // nothing was touched yet
	entering                // on their way to PRE_COPY
	precopying              // drained while the guest runs
	pausing                 // the guest is being stopped
	confirming              // and the estimates asked for once more
	unpausing               // which have called the stop off: the guest is being started again
	quiescing               // on their way to PRE_COPY_P2P or RUNNING_P2P
	freezing                // those without P2P on their way to STOP_COPY
	stopping                // all others on their way to STOP_COPY
	draining                // STOP_COPY, on the way to the end of the streams
	drained                 // every stream was read to its end
	gaveUp                  // while the guest runs
)

func (p phase) String() string {
	return [...]string{"connecting", "entering", "precopying", "pausing", "confirming", "unpausing",
		"quiescing", "freezing", "stopping", "draining", "drained", "gave up"}[p]
}

// warmth is what was done to know lanes over which nothing has gone yet.
type warmth uint8

const (
	cold warmth = iota
	warming
	warm
)

// limits are the figures that the switchover is decided by.
type limits struct {
	downtime   time.Duration // that the stop may take, as predicted
	onLimit    OnLimit       // what to do when it would take longer
	maxPrecopy time.Duration
	maxRounds  int
	timeout    time.Duration // of everything before the stop, 0 is none
}

// plan decides what the source's devices do next, up to the end of their
// streams. It is pure: step is given what happened and when, and answers with
// what to do.
type plan struct {
	limits     limits
	phase      phase
	began      time.Duration   // when PRE_COPY was reached
	because    string          // why PRE_COPY ended
	prediction report.Forecast // what the stop was expected to take, when it was decided
	calledOff  int             // stops that were called off at the last moment
	cut        bool            // the destination is out of reach
	capped     bool            // PRE_COPY has reached a cap, and goes on
	forced     bool            // the stop was decided although it breaks a limit
	warned     bool            // that the fixed steps alone are over the limit
	warmth     warmth          // of the lanes, if they had to be warmed
	path       path
	leastRTT   time.Duration // 0 before one was measured
	stopping   report.Span   // what stopping the devices takes, as far as was seen
	starting   report.Span   // and starting the destination's
	devices    []planDevice
	known      []figures // what figures makes
}

// planDevice is what the plan knows of one device.
type planDevice struct {
	estimate
	save, load float64 // bytes a second, 0 is unknown
	ended      bool
}

// Events of the plan.
type (
	connected struct{}                     // lanes are open
	warmed    struct{}                     // and have been padded, and measured
	reached   struct{}                     // every move of the last enter is done
	paused    struct{}                     // the guest has stopped
	confirmed struct{}                     // every device in PRE_COPY was polled since
	cut       struct{}                     // the destination is out of reach
	mended    struct{ away time.Duration } // it was, for so long
	unpaused  struct{}                     // the guest runs again
	ticked    struct{}                     // time passed
	ended     struct{ device int }         // a stream was read to its end
	polled    struct {                     // GET_PRECOPY_INFO has answered
		device  int
		offset  uint64 // bytes read by then
		idle    bool   // and no more were there
		pending vfio.Pending
	}
	sized struct { // MIG_DATA_SIZE has
		device int
		bytes  uint64
	}
	measured struct { // bytes have moved, and rates were measured
		moved
		path        path
		stop, start report.Span // what transitions take here and there, as far as was seen
		save, load  []float64
	}
)

// moved is how far each device's stream is, in bytes.
type moved struct{ drained, applied []uint64 }

// Actions of the plan.
type (
	// enter moves devices, all at once; the answer, when all are there, is reached.
	enter struct{ moves []move }
	// warmUp pads the lanes; the answer is warmed.
	warmUp struct{}
	// pause stops the guest; the answer is paused.
	pause struct{}
	// confirm polls every device in PRE_COPY; the answers are polled, then confirmed.
	confirm struct{}
	// unpause starts the guest again; the answer is unpaused.
	unpause struct{}
	// endStream tells the destination that a stream is whole.
	endStream struct{ device int }
	// allDrained tells the hand-off so.
	allDrained struct{}
	// warn tells the user.
	warn struct{ text string }
	// giveUp ends the attempt.
	giveUp struct{ cause error }
)

// move is one device's part of a transition.
type move struct {
	device int
	to     vfio.State
}

func newPlan(l limits, features []vfio.Features) plan {
	p := plan{limits: l, devices: make([]planDevice, len(features)), known: make([]figures, len(features))}
	for i, f := range features {
		p.devices[i].features = f
	}
	return p
}

// step is the whole of the plan's behaviour.
func (p *plan) step(now time.Duration, ev any) []any {
	switch ev := ev.(type) {
	case connected:
		return p.connected(now)
	case reached:
		return p.reached(now)
	case warmed:
		p.warmth = warm
	case paused:
		return p.paused()
	case confirmed:
		return p.confirmed()
	case unpaused:
		p.phase = precopying
		return nil
	case cut:
		p.cut = true
		return nil
	case mended: // what has not moved since says nothing of the devices
		p.cut, p.began = false, p.began+ev.away
	case polled:
		p.devices[ev.device].poll(now, ev.pending, ev.offset, ev.idle)
	case sized:
		p.devices[ev.device].resize(ev.bytes)
	case *measured: // the sender's again once the step is done
		p.moved(ev.moved)
		p.measured(ev)
	case ended:
		return p.ended(ev.device)
	}
	return p.decide(now)
}

func (p *plan) moved(ev moved) {
	for i := range p.devices {
		d := &p.devices[i]
		d.drained, d.applied = max(d.drained, ev.drained[i]), max(d.applied, ev.applied[i])
	}
}

func (p *plan) measured(ev *measured) {
	p.path, p.stopping, p.starting = ev.path, ev.stop, ev.start
	if rtt := ev.path.rtt; rtt.Known && (p.leastRTT == 0 || rtt.Took < p.leastRTT) {
		p.leastRTT = rtt.Took
	}
	for i := range p.devices {
		p.devices[i].save, p.devices[i].load = ev.save[i], ev.load[i]
	}
}

func (p *plan) connected(now time.Duration) []any {
	if over := p.hopeless(now); over != nil {
		return p.giveUp(*over)
	}
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
	p.phase, p.began = precopying, now
	return p.decide(now)
}

func (p *plan) reached(now time.Duration) []any {
	switch p.phase {
	case entering:
		p.phase, p.began = precopying, now
		for i := range p.devices {
			p.devices[i].begin(now)
		}
	case quiescing:
		return p.quiesced()
	case freezing:
		return p.stop(func(f vfio.Features) bool { return f.P2P })
	case stopping:
		p.phase = draining
		return p.drains()
	}
	return nil
}

// drains says which streams have ended before the last device was in STOP_COPY.
func (p *plan) drains() (actions []any) {
	for i := range p.devices {
		if p.devices[i].ended {
			actions = append(actions, endStream{i})
		}
	}
	return append(actions, p.whole()...)
}

// paused asks once more, now that the guest cannot change anything.
func (p *plan) paused() []any {
	if !p.anyPreCopy() {
		return p.quiesce()
	}
	p.phase = confirming
	return []any{confirm{}}
}

// maxCalledOff is how often a stop is called off: a device that is initialised
// anew each time would keep its guest stuttering.
const maxCalledOff = 3

// confirmed calls the stop off if a device was initialised anew in the meantime:
// its new initial bytes are to be applied while the guest runs, unless the stop is
// forced. They make a stop longer, and no less correct.
func (p *plan) confirmed() []any {
	if p.ready() || p.forced {
		return p.quiesce()
	}
	p.calledOff++
	if p.calledOff > maxCalledOff {
		return p.giveUp(LimitError{Limit: LimitReinit, Count: maxCalledOff + 1})
	}
	p.phase = unpausing
	return []any{unpause{}}
}

// quiesce starts the P2P barrier: no device may be frozen while another could
// still reach it by DMA.
func (p *plan) quiesce() []any {
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

// ended takes in the end of a stream. It may come before it is known that every
// device has reached STOP_COPY. Then the destination is not told yet: with the
// last END it would answer READY, and nobody would be waiting for that.
func (p *plan) ended(device int) []any {
	p.devices[device].ended = true
	if p.phase != draining {
		return nil
	}
	return append([]any{endStream{device}}, p.whole()...)
}

// whole is the end of the plan.
func (p *plan) whole() []any {
	for i := range p.devices {
		if !p.devices[i].ended {
			return nil
		}
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
