package reader

import (
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

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
	if p.phase > precopying {
		return nil
	}
	ready := p.ready()
	next, limit := p.forecast(now), p.limits.downtime
	over := p.cap(now)
	switch {
	case p.phase < precopying || p.warmth == warming || p.cut: // nothing but the timeout ends these
		if over == nil || over.Limit != LimitTimeout {
			return nil
		}
	case ready && p.cold(now, next):
		p.warmth = warming
		return []any{warmUp{}}
	case !ready || next.Downtime.Took > limit || p.dark(now):
	case p.most(now, false)-next.Downtime.Took > limit/8: // a little patience tells which of them it is
	case p.most(now, true) > limit/10*11:
	case next.Downtime.Known:
		return p.stopBecause(next, "the predicted downtime is within the limit")
	case !p.stale(): // nobody will ever know more
		return p.stopBecause(next, "the downtime cannot be predicted")
	}
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

// cold reports whether the lanes are to be padded: they were never full, so that
// they may be faster than is known, and by what is known of them the stop does not
// fit. Where nobody waits for the stop, nobody waits for this.
func (p *plan) cold(now time.Duration, next report.Forecast) bool {
	return p.warmth == cold && !p.path.full && p.limits.downtime < unlimited &&
		(p.dark(now) || next.Downtime.Took > p.limits.downtime)
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
	case p.phase < precopying:
		return nil
	case !p.anyPreCopy() && p.path.rate == 0:
		return &LimitError{Limit: LimitPath}
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
