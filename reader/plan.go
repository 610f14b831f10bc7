package reader

import (
	"slices"
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
	capped     bool            // PRE_COPY has reached a cap, and goes on
	warmth     warmth          // of the lanes, if they had to be warmed
	path       path
	stopping   report.Span // what freezing the devices takes, as far as was seen
	starting   report.Span // and starting the destination's
	devices    []planDevice
}

// planDevice is what the plan knows of one device.
type planDevice struct {
	estimate
	save, load float64 // bytes a second, 0 is unknown
	ended      bool
}

// Events of the plan.
type (
	connected struct{}             // lanes are open
	warmed    struct{}             // and have been padded, and measured
	reached   struct{}             // every move of the last enter is done
	paused    struct{}             // the guest has stopped
	confirmed struct{}             // every device in PRE_COPY was polled since
	unpaused  struct{}             // the guest runs again
	ticked    struct{}             // time passed
	ended     struct{ device int } // a stream was read to its end
	polled    struct {             // GET_PRECOPY_INFO has answered
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
	case polled:
		p.devices[ev.device].poll(now, ev.pending, ev.offset, ev.idle)
	case sized:
		p.devices[ev.device].resize(ev.bytes)
	case measured:
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

func (p *plan) measured(ev measured) {
	p.path, p.stopping, p.starting = ev.path, ev.stop, ev.start
	for i := range p.devices {
		p.devices[i].save, p.devices[i].load = ev.save[i], ev.load[i]
	}
}

func (p *plan) connected(now time.Duration) []any {
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
	p.phase = precopying
	return p.decide(now)
}

// forecast is what a stop now would come to, as expected.
func (p *plan) forecast(now time.Duration) (next report.Forecast) {
	known := p.figures(func(d *planDevice) uint64 { return d.left(now) })
	all, each := predict(known, p.path)
	next.Prediction = all
	for i, one := range each {
		next.Devices = append(next.Devices, report.DeviceForecast{Bytes: known[i].moving().bytes, Prediction: one})
	}
	return next
}

// most is the downtime if every device turns out to dump everything anew that
// has not had the time to show it, or if it turns out to load as slowly as it may.
func (p *plan) most(now time.Duration, worst bool) time.Duration {
	over := p.path
	over.worst = worst
	all, _ := predict(p.figures(func(d *planDevice) uint64 { return d.most(now) }), over)
	return all.Downtime.Took
}

func (p *plan) figures(left func(*planDevice) uint64) []figures {
	known := make([]figures, len(p.devices))
	for i := range p.devices {
		d := &p.devices[i]
		known[i] = figures{precopy: amount{known: true}, left: amount{left(d), d.known()}, hidden: d.hidden(),
			save: d.save, load: d.load, stop: p.stopping, start: p.starting}
	}
	return known
}

// decide ends PRE_COPY when the destination holds every device's initial bytes
// and the predicted downtime is within the limit. Where PRE_COPY reaches a cap
// first, limits.onLimit says what happens. As long as initial bytes are missing
// the guest is not stopped: only when they are applied is it known that the
// destination takes this state.
func (p *plan) decide(now time.Duration) []any {
	if p.phase != precopying {
		return nil
	}
	ready := p.ready()
	next, limit := p.forecast(now), p.limits.downtime
	switch {
	case p.warmth == warming:
		return nil
	case ready && p.cold(next):
		p.warmth = warming
		return []any{warmUp{}}
	case !ready || next.Downtime.Took > limit:
	case p.most(now, false)-next.Downtime.Took > limit/8: // a little patience tells which of them it is
		return nil
	case p.most(now, true) > limit*11/10:
	case next.Downtime.Known:
		return p.stopBecause(next, "the predicted downtime is within the limit")
	case !p.stale(): // nobody will ever know more
		return p.stopBecause(next, "the downtime cannot be predicted")
	}
	over := p.cap(now)
	switch {
	case over == nil:
		return nil
	case over.Limit == LimitTimeout:
	case p.limits.onLimit == Continue && p.anyPreCopy():
		return p.goOn(over, next)
	case p.limits.onLimit == Force && ready:
		return p.stopBecause(next, over.what()+", and the stop is forced")
	}
	over.Ready, over.Predicted = ready, max(next.Downtime.Took, p.most(now, true))
	return p.giveUp(over)
}

// cold reports whether nobody can say how fast the lanes are, and it matters.
func (p *plan) cold(next report.Forecast) bool {
	return p.warmth == cold && p.path.rate == 0 && !(next.Fill.Known && next.Wire.Known)
}

// stale reports whether some driver is to be asked again before anything is known.
func (p *plan) stale() bool {
	return slices.ContainsFunc(p.devices, func(d planDevice) bool { return d.stale() })
}

func (p *plan) stopBecause(next report.Forecast, why string) []any {
	p.phase, p.prediction, p.because = pausing, next, why
	return []any{pause{}}
}

func (p *plan) giveUp(cause error) []any {
	p.phase = gaveUp
	return []any{giveUp{cause}}
}

// goOn tells, once, that a cap was reached and is not acted upon.
func (p *plan) goOn(over *LimitError, next report.Forecast) []any {
	if p.capped {
		return nil
	}
	p.capped = true
	return []any{warn{over.what() + "; it goes on, since a stop now would take " + round(next.Downtime.Took).String()}}
}

// cap is the limit that PRE_COPY has reached, nil if none.
func (p *plan) cap(now time.Duration) *LimitError {
	took := now - p.began
	switch {
	case p.limits.timeout > 0 && now >= p.limits.timeout:
		return &LimitError{Limit: LimitTimeout, Allowed: p.limits.timeout}
	case !p.anyPreCopy():
		return &LimitError{Limit: LimitDowntime, Allowed: p.limits.downtime}
	case took >= p.limits.maxPrecopy:
		return &LimitError{Limit: LimitPrecopy, Allowed: p.limits.maxPrecopy}
	case p.rounds() >= p.limits.maxRounds:
		return &LimitError{Limit: LimitRounds, Count: p.limits.maxRounds}
	}
	return nil
}

func (p *plan) anyPreCopy() bool {
	return slices.ContainsFunc(p.devices, func(d planDevice) bool { return d.features.PreCopy })
}

// rounds is the most that any device has been through, of those that count, and
// none as long as some device is in its first: the rounds of a small one say
// nothing of it.
func (p *plan) rounds() (most int) {
	for i := range p.devices {
		d := &p.devices[i]
		if d.features.PreCopy && d.rounds == 0 {
			return 0
		}
		most = max(most, d.counts)
	}
	return most
}

// ready reports whether the destination has applied the initial bytes of every
// device.
func (p *plan) ready() bool {
	return !slices.ContainsFunc(p.devices, func(d planDevice) bool { return !d.ready() })
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
// its new initial bytes are to be applied while the guest runs.
func (p *plan) confirmed() []any {
	if p.ready() {
		return p.quiesce()
	}
	p.calledOff++
	if p.calledOff > maxCalledOff {
		return p.giveUp(&LimitError{Limit: LimitReinit, Count: maxCalledOff + 1})
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
