package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// predictDowntime is how long a stop now would take.
func (p *Plan) predictDowntime(now time.Duration) migration.Span {
	return Predict(p.collectFigures(func(d *device) uint64 { return d.remaining(now) }), p.path).Downtime
}

// forecastStop is what such a stop would come to.
func (p *Plan) forecastStop(now time.Duration) (next migration.Forecast) {
	known := p.collectFigures(func(d *device) uint64 { return d.remaining(now) })
	for i := range known { // what was never measured is not known, though something can be said of it
		known[i].Stop.Known = known[i].Stop.Known && !p.path.Steps.Stop.Unknown
		known[i].Start.Known = known[i].Start.Known && !p.path.Steps.Start.Unknown
	}
	next.Prediction = Predict(known, p.path)
	for _, f := range known {
		next.Devices = append(next.Devices, migration.DeviceForecast{Bytes: f.moving().Bytes, Prediction: p.path.PredictAlone(f)})
	}
	return next
}

// predictMost is the downtime if every device turns out to dump everything anew that
// has not had the time to show it, or if it turns out to load as slowly as it may.
func (p *Plan) predictMost(now time.Duration, worst bool) migration.Prediction {
	over := p.path
	over.worst = worst
	return Predict(p.collectFigures(func(d *device) uint64 { return d.worstRemaining(now) }), over)
}

// collectFigures are what is known by now, until they are asked for again.
func (p *Plan) collectFigures(left func(*device) uint64) []DeviceFigures {
	for i := range p.devices {
		d := &p.devices[i]
		p.figures[i] = DeviceFigures{Precopy: Amount{Known: true}, Left: Amount{left(d), d.isKnown()}, Hidden: d.hidden(),
			Save: d.save, Load: d.load, Stop: p.stopping, Start: p.starting}
	}
	return p.figures
}

// decide ends PRE_COPY when the destination holds every device's initial bytes
// and the predicted downtime is within the limit. Where PRE_COPY reaches a cap
// first, limits.OnLimit says what happens. As long as initial bytes are missing
// the guest is stopped only by force: when they are applied it is known that the
// destination takes this state, and what takes it longest is done.
func (p *Plan) decide(now time.Duration) []Action {
	if p.phase > Precopying {
		return nil
	}
	if over := p.checkFixed(now); over != nil && p.phase == Precopying {
		return p.endAttempt(*over)
	}
	return append(p.warnFixed(), p.decideStop(now)...)
}

func (p *Plan) decideStop(now time.Duration) []Action {
	ready := p.allReady()
	next, limit := p.predictDowntime(now), p.downtimeLimit()
	over, reached := p.reachedCap(now)
	switch {
	case p.phase < Precopying || p.warmth == warming || p.cut: // nothing but the timeout ends these
		if !reached || over.Limit != LimitTimeout {
			return nil
		}
	case ready && p.mustWarm(now, next):
		p.warmth = warming
		return []Action{WarmLanes{}}
	case !ready || next.Took > limit || p.pathUnknown(now):
	case p.predictMost(now, false).Downtime.Took-next.Took > limit/8: // a little patience tells which of them it is
	case p.predictMost(now, true).Downtime.Took > limit/10*11:
	case next.Known:
		return p.beginStop(now, p.whyWithin())
	case !p.awaitsAnswer(): // nobody will ever know more
		return p.beginStop(now, "the downtime cannot be predicted"+p.nameLeftOut())
	}
	switch {
	case !reached:
		return nil
	case over.Limit == LimitTimeout:
	case p.limits.OnLimit == Continue && p.hasPrecopy():
		return p.warnContinue(over, next)
	case p.limits.OnLimit == Force:
		p.forced = true
		return p.beginStop(now, over.nameLimit()+", and the stop is forced")
	}
	worst := p.predictMost(now, true)
	if next.Took > worst.Downtime.Took {
		worst = p.forecastStop(now).Prediction
	}
	over.Ready, over.Predicted, over.Stages = ready, worst.Downtime.Took, worst.Stages()
	return p.endAttempt(over)
}

// sureAfter is how long PRE_COPY measures round trips before the least of them counts
// against the limit: the first may have met a busy path.
const measuredAfter = time.Second

// checkFixed says, as soon as it is known, that what no PRE_COPY shortens takes longer
// than the limit: to wait would be in vain, Continue or not. nil if it is not so, or
// if the stop is forced. Only the least round trip counts: a busy path may be quiet later.
func (p *Plan) checkFixed(now time.Duration) *LimitError {
	if p.limits.OnLimit == Force {
		return nil
	}
	least := p.path
	if least.RTT.Took = p.leastRTT; p.phase < Precopying || now-p.began < measuredAfter {
		least.RTT.Took = 0
	}
	fixed := least.predictFixed(p.stopping, p.starting)
	if fixed.Downtime.Took <= p.limits.Downtime {
		return nil
	}
	return &LimitError{Limit: LimitFixed, Allowed: p.limits.Downtime, Ready: p.allReady(), Predicted: fixed.Downtime.Took, Stages: fixed.Stages()}
}

// downtimeLimit is what a stop may take. Where it is forced, steps that no PRE_COPY shortens do
// not count if they alone are over the limit: PRE_COPY brings down the rest.
func (p *Plan) downtimeLimit() time.Duration {
	limit := p.limits.Downtime
	if p.limits.OnLimit != Force {
		return limit
	}
	if fixed := p.path.predictFixed(p.stopping, p.starting).Downtime.Took; fixed > limit {
		return limit + fixed
	}
	return limit
}

// whyWithin is why a stop begins that fits the limit.
func (p *Plan) whyWithin() string {
	if p.downtimeLimit() == p.limits.Downtime {
		return "the predicted downtime is within the limit"
	}
	return "what pre-copy shortens is within the limit, and the stop is forced"
}

// nameLeftOut names the steps that a prediction leaves out.
func (p *Plan) nameLeftOut() string {
	if names := p.path.Steps.NameUnknown(); len(names) > 0 {
		return " without " + strings.Join(names, ", ")
	}
	return ""
}

// warnFixed tells, once, that a stop will be over the limit, which is forced.
func (p *Plan) warnFixed() []Action {
	limit := p.downtimeLimit()
	if p.warned || limit == p.limits.Downtime {
		return nil
	}
	p.warned = true
	fixed := p.path.predictFixed(p.stopping, p.starting)
	return []Action{WarnUser{fmt.Sprintf("the downtime will be over the limit of %v, whatever pre-copy does, and the stop is forced: the steps that pre-copy does not shorten take %v%s",
		p.limits.Downtime, migration.RoundTime(fixed.Downtime.Took), nameStages(fixed.Stages()))}}
}

// mustWarm reports whether the lanes are to be padded: they were never full, so that
// they may be faster than is known, and by what is known of them the stop does not
// fit. Where nobody waits for the stop, nobody waits for this.
func (p *Plan) mustWarm(now time.Duration, next migration.Span) bool {
	return p.warmth == cold && !p.path.Full && p.limits.Downtime < Unlimited &&
		(p.pathUnknown(now) || next.Took > p.downtimeLimit())
}

// pathUnknown reports whether nothing shows how fast the lanes are, and more than a burst
// has to go over them.
func (p *Plan) pathUnknown(now time.Duration) bool {
	if p.path.Rate > 0 || p.limits.Downtime == Unlimited {
		return false
	}
	all := Amount{Known: true}
	for _, f := range p.collectFigures(func(d *device) uint64 { return d.remaining(now) }) {
		all = all.add(f.moving())
	}
	return !all.Known || all.Bytes > burst
}

// awaitsAnswer reports whether some driver is to be asked again before anything is known.
func (p *Plan) awaitsAnswer() bool {
	return slices.ContainsFunc(p.devices, func(d device) bool { return d.needsAnswer() })
}

func (p *Plan) beginStop(now time.Duration, why string) []Action {
	p.phase = Pausing
	return []Action{PauseGuest{why, p.forecastStop(now)}}
}

func (p *Plan) endAttempt(over LimitError) []Action {
	p.phase = Ended
	return []Action{EndAttempt{&over}}
}

// Waiting is what PRE_COPY waits for if that is nothing but the limit: all has gone once,
// and what is left takes too long. Else it is nil.
func (p *Plan) Waiting(now time.Duration) *migration.Waiting {
	if p.phase != Precopying || p.warmth == warming || p.cut || !p.allReady() || !p.capped && p.countRounds() == 0 {
		return nil
	}
	if next := p.predictDowntime(now); next.Took > p.downtimeLimit() {
		return &migration.Waiting{Limit: p.limits.Downtime, Downtime: p.forecastStop(now).Downtime}
	}
	return nil
}

// warnContinue tells, once, that a cap was reached and is not acted upon.
func (p *Plan) warnContinue(over LimitError, next migration.Span) []Action {
	if p.capped {
		return nil
	}
	p.capped = true
	return []Action{WarnUser{over.nameLimit() + "; it goes on, since a stop now would take " + migration.RoundTime(next.Took).String()}}
}

// reachedCap is the limit that PRE_COPY has reached, if it has reached one.
func (p *Plan) reachedCap(now time.Duration) (over LimitError, reached bool) {
	took := now - p.began
	switch {
	case p.limits.Timeout > 0 && now >= p.limits.Timeout:
		return LimitError{Limit: LimitTimeout, Allowed: p.limits.Timeout}, true
	case p.phase < Precopying:
		return over, false
	case !p.hasPrecopy() && p.path.Rate == 0:
		return LimitError{Limit: LimitPath}, true
	case !p.hasPrecopy():
		return LimitError{Limit: LimitDowntime, Allowed: p.limits.Downtime}, true
	case took >= p.limits.MaxPrecopy:
		return LimitError{Limit: LimitPrecopy, Allowed: p.limits.MaxPrecopy}, true
	case p.countRounds() >= p.limits.MaxRounds:
		return LimitError{Limit: LimitRounds, Count: p.limits.MaxRounds}, true
	}
	return over, false
}

func (p *Plan) hasPrecopy() bool {
	return slices.ContainsFunc(p.devices, func(d device) bool { return d.features.PreCopy })
}

// countRounds is the most that any device has been through, of those that count, and
// none as long as some device is in its first: the rounds of a small one say
// nothing of it.
func (p *Plan) countRounds() (most int) {
	for i := range p.devices {
		d := &p.devices[i]
		if d.features.PreCopy && d.rounds == 0 {
			return 0
		}
		most = max(most, d.counts)
	}
	return most
}

// allReady reports whether the destination has applied the initial bytes of every
// device.
func (p *Plan) allReady() bool {
	return !slices.ContainsFunc(p.devices, func(d device) bool { return !d.ready() })
}
