package codec

import "time"

// endPeriod ends a period, and begins the next one at the next price.
func (c *Controller) endPeriod() {
	t := &c.period
	t.modelled = c.predictPlan(c.price)
	t.perByte = t.write / max(t.wire, 1)
	c.debt -= min(t.laneTime(), c.debt)
	c.spent += t.laneTime()
	for i := range c.backoffs {
		c.backoffs[i].left -= t.laneTime()
	}
	if c.trial {
		c.judgeTrial()
	} else {
		c.resetIfSurprised()
		c.before = *t
		c.startTrial()
	}
	c.period = tally{}
	for _, a := range c.devices {
		a.raw = [classes]float64{}
	}
}

// predictPlan returns the plan for the period's chunks at a price.
func (c *Controller) predictPlan(price uint8) (p plan) {
	for _, a := range c.devices {
		for k, raw := range a.raw {
			if raw > 0 {
				f := a.figures.predict(class(k), a.figures.cheapest(c.allowed, class(k), prices[price]))
				p.encode, p.wire = p.encode+raw*f.time, p.wire+raw*f.ratio
			}
		}
	}
	return p
}

// predictTime returns the time that the chunks of a plan would have taken in the period
// t, whose own chunks may have differed.
func (t *tally) predictTime(p plan) float64 {
	own := t.modelled.encode + t.perByte*t.modelled.wire
	if own <= 0 {
		return t.laneTime()
	}
	return t.laneTime() * (p.encode + t.perByte*p.wire) / own
}

// judgeTrial ends a trial. It adopts the new price if the chunks took less time than
// predicted for the previous price.
func (c *Controller) judgeTrial() {
	t, without := &c.period, c.before.predictTime(c.predictPlan(c.previous))
	alike := t.isLike(&c.before)
	if !alike && c.unlike < maxUnlike {
		c.unlike++ // the periods are not comparable
		return
	}
	c.trial = false
	gained := without - t.laneTime()
	if alike && gained > minSaving*without {
		c.before = *t
		c.backOff(c.previous, c.price, gained)
		return
	}
	cost := max(-gained, t.laneTime()/minBackoff)
	c.backOff(c.price, c.previous, cost)
	c.price = c.previous
	if c.failed++; c.failed > freeFailures {
		c.debt += minBackoff * cost
	}
}

// backOff starts the backoff of a price that was worse than a better one, by cost, and of
// the prices that are further from the better one.
func (c *Controller) backOff(price, better uint8, cost float64) {
	for i := range c.backoffs {
		if r := &c.backoffs[i]; price < better && i <= int(price) || price > better && i >= int(price) {
			r.pause = min(max(2*r.pause, minBackoff), maxBackoff)
			r.left = r.pause * cost
		}
	}
}

// isLike reports whether two periods had chunks of similar classes.
func (t *tally) isLike(other *tally) bool {
	common := 0.0
	for k := range t.classes {
		common += min(t.classes[k]/max(t.raw, 1), other.classes[k]/max(other.raw, 1))
	}
	return common > minLikeness
}

// resetIfSurprised removes all backoffs if the lanes have changed since the period before.
func (c *Controller) resetIfSurprised() {
	is, was := c.period.laneTime(), c.before.predictTime(c.period.modelled)
	if c.period.isLike(&c.before) && (is > surprise*was || was > surprise*is) {
		c.backoffs, c.failed, c.debt = [len(prices)]backoff{}, 0, 0
	}
}

// startTrial starts a trial of the price with the shortest predicted time among those that
// change a choice. The predicted time may even exceed the current time, up to maxTrialPart,
// since the model is too simple to be relied on. But if Inform has set the first price, the
// predicted cost of the trial must be small compared with the time spent so far.
func (c *Controller) startTrial() {
	if c.debt > 0 {
		return
	}
	best, least := c.price, float64(maxTrialPart)
	for i := range prices {
		if c.backoffs[i].left > 0 {
			continue
		}
		if part, other := c.predictPart(uint8(i)); other && part < least && c.isAffordable(part) {
			best, least = uint8(i), part
		}
	}
	if best != c.price {
		c.trial, c.unlike, c.previous, c.price = true, 0, c.price, best
	}
}

// isAffordable reports whether a trial with a predicted part of the period's time may start.
func (c *Controller) isAffordable(part float64) bool {
	return !c.informed || part < 1 || minBackoff*(part-1+minSaving)*c.period.laneTime() <= c.spent
}

// predictPart returns the part of the period's time that a price would have taken at best, and
// whether the price changes a choice.
func (c *Controller) predictPart(price uint8) (part float64, other bool) {
	t, p := &c.period, c.predictPlan(price)
	return min(t.part(p, 1), t.part(p, t.lanes)), p != t.modelled
}

// part returns the part of the period's time that a plan would have taken. A lane encodes
// and then writes. While the link is free, a write takes a time that depends on its lane
// only. shared is the time that concurrent writes of all lanes take, as a multiple of that
// time: 1 if the lanes do not hinder each other, and their number if they share one link.
func (t *tally) part(p plan, shared float64) float64 {
	alone := min(t.write, (t.encode+t.write)/shared) / max(t.wire, 1)
	time := func(p plan) float64 {
		return t.idle + max(p.encode+alone*p.wire, shared*alone*p.wire)
	}
	if now := time(t.modelled); now > 0 {
		return time(p) / now
	}
	return 1
}

// seconds returns a duration in seconds, limited to 0 to maxSeconds.
func seconds(d time.Duration) float64 { return min(max(d.Seconds(), 0), maxSeconds) }
