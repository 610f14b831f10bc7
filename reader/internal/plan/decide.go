package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// predictDowntime is the downtime of a switchover that begins now.
func (p *Plan) predictDowntime(now time.Duration) migration.Span {
	return Predict(p.collectFigures(func(d *device) uint64 { return d.remaining(now) }), p.path).Downtime
}

// forecast is the full prediction for a switchover that begins now.
func (p *Plan) forecast(now time.Duration) (next migration.Forecast) {
	known := p.collectFigures(func(d *device) uint64 { return d.remaining(now) })
	for i := range known { // a stand-in for a missing measurement is not known
		known[i].Stop.Known = known[i].Stop.Known && !p.path.Steps.Stop.Unknown
		known[i].Start.Known = known[i].Start.Known && !p.path.Steps.Start.Unknown
	}
	next.Prediction = Predict(known, p.path)
	for _, f := range known {
		next.Devices = append(next.Devices, migration.DeviceForecast{Bytes: f.moving().Bytes, Prediction: p.path.PredictAlone(f)})
	}
	return next
}

// predictMost is the downtime in a bad case: every device that could not show it yet dumps
// everything again. With worst each device also loads as slowly as it may.
func (p *Plan) predictMost(now time.Duration, worst bool) migration.Prediction {
	over := p.path
	over.worst = worst
	return Predict(p.collectFigures(func(d *device) uint64 { return d.worstRemaining(now) }), over)
}

// collectFigures are the known figures of all devices. The next call overwrites them.
func (p *Plan) collectFigures(remaining func(*device) uint64) []DeviceFigures {
	for i := range p.devices {
		d := &p.devices[i]
		p.figures[i] = DeviceFigures{Precopy: Amount{Known: true}, Remaining: Amount{remaining(d), d.isKnown()}, Hidden: d.hidden(),
			Save: d.save, Load: d.load, Stop: p.stopping, Start: p.starting}
	}
	return p.figures
}

// decide ends PRE_COPY when the destination has applied every device's initial bytes and the
// predicted downtime is within the limit. If PRE_COPY reaches a cap first, limits.OnLimit decides.
// While initial bytes are missing only Force pauses the guest: once they are applied, the
// destination is known to accept this state, and its slowest allocation is done.
func (p *Plan) decide(now time.Duration) []Action {
	if p.phase > Precopying {
		return nil
	}
	if over := p.checkFixed(now); over != nil && p.phase == Precopying {
		return p.endAttempt(*over)
	}
	return append(p.warnFixed(), p.decideSwitchover(now)...)
}

func (p *Plan) decideSwitchover(now time.Duration) []Action {
	ready := p.allReady()
	next, limit := p.predictDowntime(now), p.downtimeLimit()
	over, reached := p.reachedCap(now)
	switch {
	case p.phase < Precopying || p.warmth == warming || p.cut: // only the timeout ends these
		if !reached || over.Limit != LimitTimeout {
			return nil
		}
	case ready && p.mustWarm(now, next):
		p.warmth = warming
		return []Action{WarmLanes{}}
	case !ready || next.Took > limit || p.pathUnknown(now):
	case p.predictMost(now, false).Downtime.Took-next.Took > limit/8: // the next polls tell which of the two it is
	case p.predictMost(now, true).Downtime.Took > limit/10*11:
	case next.Known:
		return p.beginSwitchover(now, p.whyWithin())
	case !p.awaitsAnswer(): // no driver will say more
		return p.beginSwitchover(now, "the downtime cannot be predicted"+p.nameLeftOut())
	}
	switch {
	case !reached:
		return nil
	case over.Limit == LimitTimeout:
	case p.limits.OnLimit == Continue && p.hasPrecopy():
		return p.warnContinue(over, next)
	case p.limits.OnLimit == Force:
		p.forced = true
		return p.beginSwitchover(now, over.nameLimit()+", and the switchover is forced")
	}
	worst := p.predictMost(now, true)
	if next.Took > worst.Downtime.Took {
		worst = p.forecast(now).Prediction
	}
	over.Ready, over.Predicted, over.Stages = ready, worst.Downtime.Took, worst.Stages()
	return p.endAttempt(over)
}

// measuredAfter is how long PRE_COPY measures round trips before the shortest of them counts
// against the limit. The first ones may have met a busy path.
const measuredAfter = time.Second

// checkFixed checks the steps that no PRE_COPY shortens. If they alone take longer than the limit,
// it returns the error as soon as that is known: PRE_COPY would be in vain, with Continue too. It
// returns nil otherwise, and if the switchover is forced. Only the shortest round trip counts: a
// busy path may be quiet later.
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

// downtimeLimit is the limit for a predicted downtime. If the switchover is forced and its fixed
// steps alone are over the limit, they do not count: PRE_COPY shortens the rest.
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

// whyWithin is the reason for a switchover that is within the limit.
func (p *Plan) whyWithin() string {
	if p.downtimeLimit() == p.limits.Downtime {
		return "the predicted downtime is within the limit"
	}
	return "the steps that pre-copy shortens are within the limit, and the switchover is forced"
}

// nameLeftOut names the steps that a prediction leaves out.
func (p *Plan) nameLeftOut() string {
	if names := p.path.Steps.NameUnknown(); len(names) > 0 {
		return " without " + strings.Join(names, ", ")
	}
	return ""
}

// warnFixed warns, once, that a forced switchover will be over the limit.
func (p *Plan) warnFixed() []Action {
	limit := p.downtimeLimit()
	if p.warned || limit == p.limits.Downtime {
		return nil
	}
	p.warned = true
	fixed := p.path.predictFixed(p.stopping, p.starting)
	return []Action{WarnUser{fmt.Sprintf("the downtime will be over the limit of %v even with pre-copy, and the switchover is forced: the steps that pre-copy does not shorten take %v%s",
		p.limits.Downtime, migration.RoundTime(fixed.Downtime.Took), nameStages(fixed.Stages()))}}
}

// mustWarm reports whether the lanes need padding: they never were full, so that they may be faster
// than measured, and with the measured rate the downtime is over the limit. Without a limit of the
// downtime nothing needs padding.
func (p *Plan) mustWarm(now time.Duration, next migration.Span) bool {
	return p.warmth == cold && !p.path.Full && p.limits.Downtime < Unlimited &&
		(p.pathUnknown(now) || next.Took > p.downtimeLimit())
}

// pathUnknown reports whether the speed of the lanes is unknown, and more than a burst has to go
// over them.
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

// awaitsAnswer reports whether the next answer of some driver is needed.
func (p *Plan) awaitsAnswer() bool {
	return slices.ContainsFunc(p.devices, func(d device) bool { return d.needsAnswer() })
}

func (p *Plan) beginSwitchover(now time.Duration, why string) []Action {
	p.phase = Pausing
	return []Action{PauseGuest{why, p.forecast(now)}}
}

func (p *Plan) endAttempt(over LimitError) []Action {
	p.phase = Ended
	return []Action{EndAttempt{&over}}
}

// Waiting describes a PRE_COPY that waits for nothing but the downtime limit: all bytes have gone
// once, and the rest takes too long. It is nil in every other case.
func (p *Plan) Waiting(now time.Duration) *migration.Waiting {
	if p.phase != Precopying || p.warmth == warming || p.cut || !p.allReady() || !p.capped && p.countRounds() == 0 {
		return nil
	}
	if next := p.predictDowntime(now); next.Took > p.downtimeLimit() {
		return &migration.Waiting{Limit: p.limits.Downtime, Downtime: p.forecast(now).Downtime}
	}
	return nil
}

// warnContinue warns, once, that a cap was reached and PRE_COPY continues.
func (p *Plan) warnContinue(over LimitError, next migration.Span) []Action {
	if p.capped {
		return nil
	}
	p.capped = true
	return []Action{WarnUser{over.nameLimit() + "; it continues, since a switchover now would take " + migration.RoundTime(next.Took).String()}}
}

// reachedCap is the limit that PRE_COPY has reached, if any.
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

// countRounds is the largest number of counted rounds of a device. It is 0 while some device is in
// its first round: the rounds of a small device say nothing about a large one.
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

// allReady reports whether the destination has applied the initial bytes of every device.
func (p *Plan) allReady() bool {
	return !slices.ContainsFunc(p.devices, func(d device) bool { return !d.ready() })
}
