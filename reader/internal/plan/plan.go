// Package plan decides what the source's devices do: when PRE_COPY begins and ends, when the
// guest is paused, and in which order the devices are stopped. It predicts how long a
// switchover takes, and decides by that.
//
// [Plan] is a pure state machine: an event and a time give the actions to take, in order. It
// has no device, clock or goroutine. The texts in plantest/testdata play it.
package plan

import (
	"time"

	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Phase is where the source's devices are.
type Phase uint8

// The phases.
const (
	Connecting Phase = iota // nothing was touched yet
	Entering                // on their way to PRE_COPY
	Precopying              // drained while the guest runs
	Pausing                 // the guest is being paused
	Confirming              // the estimates are asked for once more
	Unpausing               // the switchover is called off, and the guest is being resumed
	Quiescing               // on their way to PRE_COPY_P2P or RUNNING_P2P
	Freezing                // those without P2P are on their way to STOP_COPY
	Stopping                // all others are on their way to STOP_COPY
	Draining                // in STOP_COPY, on the way to the end of the streams
	Drained                 // every stream was read to its end
	Ended                   // the attempt has ended while the guest runs
)

// String is the phase's name in scenarios.
func (p Phase) String() string {
	return [...]string{"connecting", "entering", "precopying", "pausing", "confirming", "unpausing",
		"quiescing", "freezing", "stopping", "draining", "drained", "gave up"}[p]
}

// warmth is what was done to measure lanes that have carried nothing yet.
type warmth uint8

const (
	cold warmth = iota
	warming
	warm
)

// Limits are the figures that the switchover is decided by.
type Limits struct {
	Downtime   time.Duration // of the switchover, as predicted
	OnLimit    OnLimit       // what to do when it would take longer
	MaxPrecopy time.Duration
	MaxRounds  int
	Timeout    time.Duration // of everything before the switchover, 0 is none
}

// Plan decides what the source's devices do next, up to the end of their streams.
type Plan struct {
	limits    Limits
	phase     Phase
	began     time.Duration // when PRE_COPY was reached
	calledOff int           // switchovers that were called off at the last moment
	cut       bool          // the destination is out of reach
	capped    bool          // PRE_COPY has reached a cap, and goes on
	forced    bool          // the switchover was decided although it breaks a limit
	warned    bool          // that the fixed steps alone are over the limit
	warmth    warmth        // of the lanes, if they had to be warmed
	path      Path
	leastRTT  time.Duration  // 0 before one was measured
	stopping  migration.Span // what stopping the devices takes, as far as was seen
	starting  migration.Span // what starting the destination's takes, as far as was seen
	devices   []device
	figures   []DeviceFigures // what collectFigures makes
}

// device is what the plan knows of one device.
type device struct {
	estimate
	save, load float64 // bytes a second, 0 is unknown
	ended      bool
}

// New makes the plan for devices with these features. sizes are the drivers' first answers of
// MIG_DATA_SIZE, 0 where there is none; nil is none at all.
func New(l Limits, features []vfio.Features, sizes []uint64) *Plan {
	p := &Plan{limits: l, devices: make([]device, len(features)), figures: make([]DeviceFigures, len(features))}
	for i, f := range features {
		p.devices[i].features = f
	}
	for i, n := range sizes {
		p.devices[i].resize(n)
	}
	return p
}

// Phase is where the devices are.
func (p *Plan) Phase() Phase { return p.phase }

// HasEnded reports whether the stream of a device was read to its end.
func (p *Plan) HasEnded(device int) bool { return p.devices[device].ended }

// CountRounds is how often a device was found to have nothing more to read in PRE_COPY.
func (p *Plan) CountRounds(device int) int { return p.devices[device].rounds }

// LastEstimate is what the driver of a device has said last: by GET_PRECOPY_INFO, and by
// MIG_DATA_SIZE, where 0 is unknown.
func (p *Plan) LastEstimate(device int) (pending vfio.Pending, size uint64) {
	return p.devices[device].pending, p.devices[device].size
}

// Remaining estimates what a device has still to give, when so many bytes of its stream were
// read, and so many of them before the guest was paused. In PRE_COPY that is what the driver
// says is pending. At the end it is the larger of what was dirty and what is missing from the
// size of STOP_COPY, which some drivers count from the first byte of the stream on.
func (p *Plan) Remaining(device int, read, atPause uint64) (left uint64, known bool) {
	d := &p.devices[device]
	if p.phase <= Precopying && d.pending.Initial+d.pending.Dirty > 0 {
		return d.pending.Initial + d.pending.Dirty, true
	}
	left = max(d.size-min(d.size, read), d.pending.Dirty-min(d.pending.Dirty, read-atPause))
	return left, d.size > 0 && !d.ended
}

// Window is what may be read and not applied, in bytes; 0 is no limit. While the guest runs all
// of that would be downtime, and afterwards everything has to move. peak is the best rate of the
// path so far, in bytes a second: what a window makes slow must not make the window small.
func (p *Plan) Window(peak float64) uint64 {
	if p.phase != Precopying {
		return 0
	}
	best := p.path
	best.Rate = peak
	return best.window(p.limits.Downtime)
}

// Step is the whole of the plan's behaviour.
func (p *Plan) Step(now time.Duration, ev Event) []Action {
	switch ev := ev.(type) {
	case LanesOpened:
		return p.begin(now)
	case StatesReached:
		return p.finishMoves(now)
	case LanesWarmed:
		p.warmth = warm
	case GuestPaused:
		return p.confirmEstimates()
	case EstimatesConfirmed:
		return p.quiesceOrCallOff()
	case GuestResumed:
		p.phase = Precopying
		return nil
	case ConnectionLost:
		p.cut = true
		return nil
	case ConnectionRestored: // what has not moved since says nothing of the devices
		p.cut, p.began = false, p.began+ev.Away
	case PrecopyPolled:
		p.devices[ev.Device].poll(now, ev.Pending, ev.Offset, ev.Idle)
	case SizePolled:
		p.devices[ev.Device].resize(ev.Bytes)
	case *Measured:
		p.noteMeasured(ev)
	case StreamEnded:
		return p.endStream(ev.Device)
	case TimePassed:
	}
	return p.decide(now)
}

func (p *Plan) noteMeasured(ev *Measured) {
	p.path, p.stopping, p.starting = ev.Path, ev.Stop, ev.Start
	if rtt := ev.Path.RTT; rtt.Known && (p.leastRTT == 0 || rtt.Took < p.leastRTT) {
		p.leastRTT = rtt.Took
	}
	for i := range p.devices {
		d := &p.devices[i]
		d.drained, d.applied = max(d.drained, ev.Drained[i]), max(d.applied, ev.Applied[i])
		d.save, d.load = ev.Save[i], ev.Load[i]
	}
}

// begin takes the devices to PRE_COPY, those that have it.
func (p *Plan) begin(now time.Duration) []Action {
	if over := p.checkFixed(now); over != nil {
		return p.endAttempt(*over)
	}
	moves := p.listMoves(func(f vfio.Features) vfio.State {
		if f.PreCopy {
			return vfio.PreCopy
		}
		return vfio.Running
	})
	if len(moves) > 0 {
		p.phase = Entering
		return []Action{EnterStates{moves}}
	}
	p.phase, p.began = Precopying, now
	return p.decide(now)
}

func (p *Plan) finishMoves(now time.Duration) []Action {
	switch p.phase {
	case Entering:
		p.phase, p.began = Precopying, now
		for i := range p.devices {
			p.devices[i].begin(now)
		}
	case Quiescing:
		return p.freeze()
	case Freezing:
		return p.stopDevices(func(f vfio.Features) bool { return f.P2P })
	case Stopping:
		p.phase = Draining
		return p.listEnded()
	}
	return nil
}

// listEnded says which streams have ended before the last device was in STOP_COPY.
func (p *Plan) listEnded() (actions []Action) {
	for i := range p.devices {
		if p.devices[i].ended {
			actions = append(actions, EndStream{i})
		}
	}
	return append(actions, p.checkDrained()...)
}

// confirmEstimates asks once more, now that the guest cannot change anything.
func (p *Plan) confirmEstimates() []Action {
	if !p.hasPrecopy() {
		return p.quiesce()
	}
	p.phase = Confirming
	return []Action{ConfirmEstimates{}}
}

// maxCalledOff is how often a stop is called off: a device that is initialised
// anew each time would keep its guest stuttering.
const maxCalledOff = 3

// quiesceOrCallOff calls the stop off if a device was initialised anew in the meantime:
// its new initial bytes are to be applied while the guest runs, unless the stop is
// forced. They make a stop longer, and no less correct.
func (p *Plan) quiesceOrCallOff() []Action {
	if p.allReady() || p.forced {
		return p.quiesce()
	}
	p.calledOff++
	if p.calledOff > maxCalledOff {
		return p.endAttempt(LimitError{Limit: LimitReinit, Count: maxCalledOff + 1})
	}
	p.phase = Unpausing
	return []Action{ResumeGuest{}}
}

// quiesce starts the P2P barrier: no device may be frozen while another could
// still reach it by DMA.
func (p *Plan) quiesce() []Action {
	p.phase = Quiescing
	moves := p.listMoves(func(f vfio.Features) vfio.State {
		switch {
		case !f.P2P:
			return vfio.Running
		case f.PreCopy:
			return vfio.PreCopyP2P
		}
		return vfio.RunningP2P
	})
	if len(moves) == 0 {
		return p.freeze()
	}
	return []Action{EnterStates{moves}}
}

// freeze stops first what initiates DMA to the end: a device that has P2P
// still answers it.
func (p *Plan) freeze() []Action {
	var with, without bool
	for _, d := range p.devices {
		with, without = with || d.features.P2P, without || !d.features.P2P
	}
	if with && without {
		p.phase = Freezing
		return p.enterState(vfio.StopCopy, func(f vfio.Features) bool { return !f.P2P })
	}
	return p.stopDevices(func(vfio.Features) bool { return true })
}

func (p *Plan) stopDevices(which func(vfio.Features) bool) []Action {
	p.phase = Stopping
	return p.enterState(vfio.StopCopy, which)
}

func (p *Plan) enterState(to vfio.State, which func(vfio.Features) bool) []Action {
	return []Action{EnterStates{p.listMoves(func(f vfio.Features) vfio.State {
		if which(f) {
			return to
		}
		return vfio.Running
	})}}
}

// endStream takes in the end of a stream. It may come before it is known that every
// device has reached STOP_COPY. Then the destination is not told yet: with the
// last END it would answer READY, and nobody would be waiting for that.
func (p *Plan) endStream(device int) []Action {
	p.devices[device].ended = true
	if p.phase != Draining {
		return nil
	}
	return append([]Action{EndStream{device}}, p.checkDrained()...)
}

// checkDrained ends the plan when every stream has ended.
func (p *Plan) checkDrained() []Action {
	for i := range p.devices {
		if !p.devices[i].ended {
			return nil
		}
	}
	p.phase = Drained
	return []Action{ReportDrained{}}
}

// listMoves lists where each device goes; RUNNING stands for staying put.
func (p *Plan) listMoves(to func(vfio.Features) vfio.State) (moves []Move) {
	for i, d := range p.devices {
		if s := to(d.features); s != vfio.Running {
			moves = append(moves, Move{i, s})
		}
	}
	return moves
}
