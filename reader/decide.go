package reader

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

// expected is how long a stop now would take.
func (p *plan) expected(now time.Duration) report.Span {
	return predict(p.figures(func(d *planDevice) uint64 { return d.left(now) }), p.path).Downtime
}

// forecast is what such a stop would come to.
func (p *plan) forecast(now time.Duration) (next report.Forecast) {
	known := p.figures(func(d *planDevice) uint64 { return d.left(now) })
	for i := range known { // what was never measured is not known, though something can be said of it
		known[i].stop.Known = known[i].stop.Known && !p.path.steps.stop.Unknown
		known[i].start.Known = known[i].start.Known && !p.path.steps.start.Unknown
	}
	next.Prediction = predict(known, p.path)
	for _, f := range known {
		next.Devices = append(next.Devices, report.DeviceForecast{Bytes: f.moving().bytes, Prediction: p.path.alone(f)})
	}
	return next
}

// most is the downtime if every device turns out to dump everything anew that
// has not had the time to show it, or if it turns out to load as slowly as it may.
func (p *plan) most(now time.Duration, worst bool) report.Prediction {
	over := p.path
	over.worst = worst
	return predict(p.figures(func(d *planDevice) uint64 { return d.most(now) }), over)
}

// figures are what is known by now, until they are asked for again.
func (p *plan) figures(left func(*planDevice) uint64) []figures {
	for i := range p.devices {
		d := &p.devices[i]
		p.known[i] = figures{precopy: amount{known: true}, left: amount{left(d), d.known()}, hidden: d.hidden(),
			save: d.save, load: d.load, stop: p.stopping, start: p.starting}
	}
	return p.known
}

// decide ends PRE_COPY when the destination holds every device's initial bytes
// and the predicted downtime is within the limit. Where PRE_COPY reaches a cap
// first, limits.onLimit says what happens. As long as initial bytes are missing
// the guest is stopped only by force: when they are applied it is known that the
// destination takes this state, and what takes it longest is done.
func (p *plan) decide(now time.Duration) []any {
	if p.phase > precopying {
		return nil
	}
	if over := p.hopeless(now); over != nil && p.phase == precopying {
		return p.giveUp(*over)
	}
	return append(p.warnFixed(), p.decideStop(now)...)
}

func (p *plan) decideStop(now time.Duration) []any {
	ready := p.ready()
	next, limit := p.expected(now), p.limit()
	over, reached := p.cap(now)
	switch {
	case p.phase < precopying || p.warmth == warming || p.cut: // nothing but the timeout ends these
		if !reached || over.Limit != LimitTimeout {
			return nil
		}
	case ready && p.cold(now, next):
		p.warmth = warming
		return []any{warmUp{}}
	case !ready || next.Took > limit || p.dark(now):
	case p.most(now, false).Downtime.Took-next.Took > limit/8: // a little patience tells which of them it is
	case p.most(now, true).Downtime.Took > limit/10*11:
	case next.Known:
		return p.stopBecause(now, p.within())
	case !p.stale(): // nobody will ever know more
		return p.stopBecause(now, "the downtime cannot be predicted"+p.without())
	}
	switch {
	case !reached:
		return nil
	case over.Limit == LimitTimeout:
	case p.limits.onLimit == Continue && p.anyPreCopy():
		return p.goOn(over, next)
	case p.limits.onLimit == Force:
		p.forced = true
		return p.stopBecause(now, over.what()+", and the stop is forced")
	}
	worst := p.most(now, true)
	if next.Took > worst.Downtime.Took {
		worst = p.forecast(now).Prediction
	}
	over.Ready, over.Predicted, over.Stages = ready, worst.Downtime.Took, worst.Stages()
	return p.giveUp(over)
}

// sureAfter is how long PRE_COPY measures round trips before the least of them counts
// against the limit: the first may have met a busy path.
const sureAfter = time.Second

// hopeless says, as soon as it is known, that what no PRE_COPY shortens takes longer
// than the limit: to wait would be in vain, Continue or not. nil if it is not so, or
// if the stop is forced. Only the least round trip counts: a busy path may be quiet later.
func (p *plan) hopeless(now time.Duration) *LimitError {
	if p.limits.onLimit == Force {
		return nil
	}
	least := p.path
	if least.rtt.Took = p.leastRTT; p.phase < precopying || now-p.began < sureAfter {
		least.rtt.Took = 0
	}
	fixed := least.fixed(p.stopping, p.starting)
	if fixed.Downtime.Took <= p.limits.downtime {
		return nil
	}
	return &LimitError{Limit: LimitFixed, Allowed: p.limits.downtime, Ready: p.ready(), Predicted: fixed.Downtime.Took, Stages: fixed.Stages()}
}

// limit is what a stop may take. Where it is forced, steps that no PRE_COPY shortens do
// not count if they alone are over the limit: PRE_COPY brings down the rest.
func (p *plan) limit() time.Duration {
	limit := p.limits.downtime
	if p.limits.onLimit != Force {
		return limit
	}
	if fixed := p.path.fixed(p.stopping, p.starting).Downtime.Took; fixed > limit {
		return limit + fixed
	}
	return limit
}

// within is why a stop begins that fits the limit.
func (p *plan) within() string {
	if p.limit() == p.limits.downtime {
		return "the predicted downtime is within the limit"
	}
	return "what pre-copy shortens is within the limit, and the stop is forced"
}

// without names the steps that a prediction leaves out.
func (p *plan) without() string {
	if names := p.path.steps.unknown(); len(names) > 0 {
		return " without " + strings.Join(names, ", ")
	}
	return ""
}

// warnFixed tells, once, that a stop will be over the limit, which is forced.
func (p *plan) warnFixed() []any {
	limit := p.limit()
	if p.warned || limit == p.limits.downtime {
		return nil
	}
	p.warned = true
	fixed := p.path.fixed(p.stopping, p.starting)
	return []any{warn{fmt.Sprintf("the downtime will be over the limit of %v, whatever pre-copy does, and the stop is forced: the steps that pre-copy does not shorten take %v%s",
		p.limits.downtime, round(fixed.Downtime.Took), mainly(fixed.Stages()))}}
}

// cold reports whether the lanes are to be padded: they were never full, so that
// they may be faster than is known, and by what is known of them the stop does not
// fit. Where nobody waits for the stop, nobody waits for this.
func (p *plan) cold(now time.Duration, next report.Span) bool {
	return p.warmth == cold && !p.path.full && p.limits.downtime < unlimited &&
		(p.dark(now) || next.Took > p.limit())
}

// dark reports whether nothing shows how fast the lanes are, and more than a burst
// has to go over them.
func (p *plan) dark(now time.Duration) bool {
	if p.path.rate > 0 || p.limits.downtime == unlimited {
		return false
	}
	all := amount{known: true}
	for _, f := range p.figures(func(d *planDevice) uint64 { return d.left(now) }) {
		all = all.plus(f.moving())
	}
	return !all.known || all.bytes > burst
}

// stale reports whether some driver is to be asked again before anything is known.
func (p *plan) stale() bool {
	return slices.ContainsFunc(p.devices, func(d planDevice) bool { return d.stale() })
}

func (p *plan) stopBecause(now time.Duration, why string) []any {
	p.phase, p.prediction, p.because = pausing, p.forecast(now), why
	return []any{pause{}}
}

func (p *plan) giveUp(over LimitError) []any {
	p.phase = gaveUp
	return []any{giveUp{&over}}
}

// waiting is what PRE_COPY waits for if that is nothing but the limit: all has gone once,
// and what is left takes too long. Else it is nil.
func (p *plan) waiting(now time.Duration) *report.Waiting {
	if p.phase != precopying || p.warmth == warming || p.cut || !p.ready() || !p.capped && p.rounds() == 0 {
		return nil
	}
	if next := p.expected(now); next.Took > p.limit() {
		return &report.Waiting{Limit: p.limits.downtime, Downtime: p.forecast(now).Downtime}
	}
	return nil
}

// goOn tells, once, that a cap was reached and is not acted upon.
func (p *plan) goOn(over LimitError, next report.Span) []any {
	if p.capped {
		return nil
	}
	p.capped = true
	return []any{warn{over.what() + "; it goes on, since a stop now would take " + round(next.Took).String()}}
}

// cap is the limit that PRE_COPY has reached, if it has reached one.
func (p *plan) cap(now time.Duration) (over LimitError, reached bool) {
	took := now - p.began
	switch {
	case p.limits.timeout > 0 && now >= p.limits.timeout:
		return LimitError{Limit: LimitTimeout, Allowed: p.limits.timeout}, true
	case p.phase < precopying:
		return over, false
	case !p.anyPreCopy() && p.path.rate == 0:
		return LimitError{Limit: LimitPath}, true
	case !p.anyPreCopy():
		return LimitError{Limit: LimitDowntime, Allowed: p.limits.downtime}, true
	case took >= p.limits.maxPrecopy:
		return LimitError{Limit: LimitPrecopy, Allowed: p.limits.maxPrecopy}, true
	case p.rounds() >= p.limits.maxRounds:
		return LimitError{Limit: LimitRounds, Count: p.limits.maxRounds}, true
	}
	return over, false
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
