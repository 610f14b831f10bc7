package codec

import "time"

// conclude ends a period, and begins one at whatever price is to be had next.
func (c *Controller) conclude() {
	t := &c.period
	t.modelled = c.plan(c.price)
	t.perByte = t.write / max(t.wire, 1)
	c.debt -= min(t.took(), c.debt)
	c.spent += t.took()
	for i := range c.rests {
		c.rests[i].left -= t.took()
	}
	if c.trial {
		c.judge()
	} else {
		c.doubt()
		c.before = *t
		c.propose()
	}
	c.period = tally{}
	for _, a := range c.devices {
		a.raw = [classes]float64{}
	}
}

// plan is what the period's chunks would come to at a price.
func (c *Controller) plan(price uint8) (p plan) {
	for _, a := range c.devices {
		for k, raw := range a.raw {
			if raw > 0 {
				f := a.content.expect(class(k), a.content.best(c.allowed, class(k), prices[price]))
				p.encode, p.wire = p.encode+raw*f.time, p.wire+raw*f.ratio
			}
		}
	}
	return p
}

// expected is how long the chunks of a plan would have taken in the period t, whose
// own may have been of another kind.
func (t *tally) expected(p plan) float64 {
	own := t.modelled.encode + t.perByte*t.modelled.wire
	if own <= 0 {
		return t.took()
	}
	return t.took() * (p.encode + t.perByte*p.wire) / own
}

// judge keeps the price that was tried if it was better than what the same chunks would
// have taken without.
func (c *Controller) judge() {
	t, without := &c.period, c.before.expected(c.plan(c.from))
	alike := t.alike(&c.before)
	if !alike && c.tries < patience {
		c.tries++ // it proves nothing
		return
	}
	c.trial = false
	gained := without - t.took()
	if alike && gained > proven*without {
		c.before = *t
		c.shun(c.from, c.price, gained)
		return
	}
	cost := max(-gained, t.took()/leastPause)
	c.shun(c.price, c.from, cost)
	c.price = c.from
	if c.failed++; c.failed > free {
		c.debt += leastPause * cost
	}
}

// shun has a price rest that was found to be worse than a better one, by so much, and
// those that are further off.
func (c *Controller) shun(price, better uint8, cost float64) {
	for i := range c.rests {
		if r := &c.rests[i]; price < better && i <= int(price) || price > better && i >= int(price) {
			r.pause = min(max(2*r.pause, leastPause), mostPause)
			r.left = r.pause * cost
		}
	}
}

// alike reports whether two periods had chunks of about the same classes.
func (t *tally) alike(other *tally) bool {
	common := 0.0
	for k := range t.classes {
		common += min(t.classes[k]/max(t.raw, 1), other.classes[k]/max(other.raw, 1))
	}
	return common > likeness
}

// doubt forgets that trials have failed when the lanes are not what they were then.
func (c *Controller) doubt() {
	is, was := c.period.took(), c.before.expected(c.period.modelled)
	if c.period.alike(&c.before) && (is > startled*was || was > startled*is) {
		c.rests, c.failed, c.debt = [len(prices)]rest{}, 0, 0
	}
}

// propose puts a price on trial: that which promises the most of those that mean other
// choices, even if it promises nothing, as long as it is not hopeless: the model is too
// simple to be believed without. But where the first price was no guess, what such a trial
// is likely to cost has to be little beside all that was spent so far.
func (c *Controller) propose() {
	if c.debt > 0 {
		return
	}
	best, least := c.price, float64(hopeless)
	for i := range prices {
		if c.rests[i].left > 0 {
			continue
		}
		if part, other := c.promise(uint8(i)); other && part < least && c.affordable(part) {
			best, least = uint8(i), part
		}
	}
	if best != c.price {
		c.trial, c.tries, c.from, c.price = true, 0, c.price, best
	}
}

// affordable reports whether a trial that promises to take a part of the period's time
// may be made by now.
func (c *Controller) affordable(part float64) bool {
	return !c.informed || part < 1 || leastPause*(part-1+proven)*c.period.took() <= c.spent
}

// promise is the part of the period's time that a price would have taken, at best, and
// whether it means other choices.
func (c *Controller) promise(price uint8) (part float64, other bool) {
	t, p := &c.period, c.plan(price)
	return min(t.part(p, 1), t.part(p, t.lanes)), p != t.modelled
}

// part is the part of the period's time that a plan would have taken. A lane encodes
// and then writes, in a time of its own as long as the link is free; shared is how
// many times that all lanes need that write at once: 1 if they do not hinder each other,
// their number if there is one link that takes one after the other.
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

// seconds of a time that may be absurd.
func seconds(d time.Duration) float64 { return min(max(d.Seconds(), 0), longest) }
