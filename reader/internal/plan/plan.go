// Package plan decides what the source's devices do: when PRE_COPY begins and ends, when the guest
// is paused, and in which order the devices are stopped. It predicts how long a switchover takes,
// and decides by the prediction.
//
// [Plan] is a pure state machine: an event and a time give the actions, in order. It has no device,
// clock or goroutine. The texts in plantest/testdata play it.
package plan

import (
	"time"

	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Phase is the phase of the source's devices.
type Phase uint8

// The phases.
const (
	Connecting Phase = iota // no device was touched yet
	Entering                // on their way to PRE_COPY
	Precopying              // drained while the guest runs
	Pausing                 // the guest is being paused
	Confirming              // the devices are polled once more
	Unpausing               // the switchover is called off, and the guest is being resumed
	Quiescing               // on their way to PRE_COPY_P2P or RUNNING_P2P
	Freezing                // the devices without P2P are on their way to STOP_COPY
	Stopping                // all other devices are on their way to STOP_COPY
	Draining                // in STOP_COPY, until the end of the streams
	Drained                 // every stream was read to its end
	Ended                   // the attempt has ended before the switchover
)

// String is the phase's name in scenarios.
func (p Phase) String() string {
	return [...]string{"connecting", "entering", "precopying", "pausing", "confirming", "unpausing",
		"quiescing", "freezing", "stopping", "draining", "drained", "ended"}[p]
}

// warmth is the state of the padding of lanes that have carried nothing yet.
type warmth uint8

const (
	cold warmth = iota
	warming
	warm
)

// Limits are the limits that decide the switchover.
type Limits struct {
	Downtime   time.Duration // the longest predicted downtime
	OnLimit    OnLimit       // what to do if the prediction is longer
	MaxPrecopy time.Duration
	MaxRounds  int
	Timeout    time.Duration // of everything before the switchover, 0 is no limit
}

// Plan decides what the source's devices do next, up to the end of their streams.
type Plan struct {
	limits    Limits
	phase     Phase
	began     time.Duration // when PRE_COPY was reached
	calledOff int           // switchovers that were called off after the pause
	cut       bool          // the destination is out of reach
	capped    bool          // PRE_COPY has reached a cap, and continues
	forced    bool          // the switchover begins although it breaks a limit
	warned    bool          // the user was warned that the fixed steps alone are over the limit
	warmth    warmth        // of the lanes, if they had to be warmed
	path      Path
	leastRTT  time.Duration  // 0 before the first measurement
	stopping  migration.Span // time to stop the devices, as far as measured
	starting  migration.Span // time to start the destination's, as far as measured
	devices   []device
	figures   []DeviceFigures // scratch space of collectFigures
}

// device is the state of one device.
type device struct {
	estimate
	save, load float64 // bytes a second, 0 is unknown
	ended      bool
}

// New makes the plan for devices with these features. sizes are the drivers' first answers of
// MIG_DATA_SIZE, 0 without an answer; nil is no answers at all.
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

// Phase is the present phase of the devices.
func (p *Plan) Phase() Phase { return p.phase }

// HasEnded reports whether the stream of a device was read to its end.
func (p *Plan) HasEnded(device int) bool { return p.devices[device].ended }

// CountRounds is how often a device had nothing more to read in PRE_COPY.
func (p *Plan) CountRounds(device int) int { return p.devices[device].rounds }

// LastEstimate is the last estimate of a device's driver: the answer of GET_PRECOPY_INFO, and the
// answer of MIG_DATA_SIZE, where 0 is unknown.
func (p *Plan) LastEstimate(device int) (pending vfio.Pending, size uint64) {
	return p.devices[device].pending, p.devices[device].size
}

// Remaining estimates how many bytes a device has still to yield. read is the bytes read of its
// stream, and atPause the bytes read before the guest was paused. In PRE_COPY the estimate is the
// driver's pending bytes. After PRE_COPY it is the larger of the dirty bytes at the pause and the
// part of the STOP_COPY size that was not read. Some drivers count that size from the first byte of
// the stream on.
func (p *Plan) Remaining(device int, read, atPause uint64) (bytes uint64, known bool) {
	d := &p.devices[device]
	if p.phase <= Precopying && d.pending.Initial+d.pending.Dirty > 0 {
		return d.pending.Initial + d.pending.Dirty, true
	}
	bytes = max(d.size-min(d.size, read), d.pending.Dirty-min(d.pending.Dirty, read-atPause))
	return bytes, d.size > 0 && !d.ended
}

// Window is how many bytes may be read and not applied; 0 is no limit. While the guest runs these
// bytes add to the downtime. After the pause there is no limit. peak is the best rate of the path
// so far, in bytes a second: a rate that a small window has lowered must not keep the window small.
func (p *Plan) Window(peak float64) uint64 {
	if p.phase != Precopying {
		return 0
	}
	best := p.path
	best.Rate = peak
	return best.window(p.limits.Downtime)
}

// Step is the whole behaviour of the plan.
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
	case ConnectionRestored: // the time without a connection is no time of PRE_COPY
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

// begin moves the devices with PRE_COPY to PRE_COPY.
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

// listEnded ends the streams that ended before the last device was in STOP_COPY.
func (p *Plan) listEnded() (actions []Action) {
	for i := range p.devices {
		if p.devices[i].ended {
			actions = append(actions, EndStream{i})
		}
	}
	return append(actions, p.checkDrained()...)
}

// confirmEstimates polls once more, now that the guest can change nothing.
func (p *Plan) confirmEstimates() []Action {
	if !p.hasPrecopy() {
		return p.quiesce()
	}
	p.phase = Confirming
	return []Action{ConfirmEstimates{}}
}

// maxCalledOff is how often a switchover is called off. A device that is initialised again each
// time would pause its guest again and again.
const maxCalledOff = 3

// quiesceOrCallOff calls the switchover off if a device was initialised again meanwhile: the new
// initial bytes should be applied while the guest runs. A forced switchover goes on: the bytes make
// it longer, and no less correct.
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

// quiesce starts the P2P barrier: no device may be frozen while another could still reach it by
// DMA.
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

// freeze stops first the devices without P2P, which may initiate DMA until they are stopped. A
// device with P2P still answers that DMA.
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

// endStream takes the end of a stream. It may come before every device has reached STOP_COPY. Then
// the destination must not be told yet: it would answer the last END with READY while the source is
// not ready for that.
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

// listMoves lists the next state of each device. RUNNING means no move.
func (p *Plan) listMoves(to func(vfio.Features) vfio.State) (moves []Move) {
	for i, d := range p.devices {
		if s := to(d.features); s != vfio.Running {
			moves = append(moves, Move{i, s})
		}
	}
	return moves
}
