package share

// Pool is an amount of memory, in chunks, and who holds how much of it. Who
// wants more gets what is free in the order of who is furthest below its share.
// A share that its device does not want is free for others, all but a little:
// that is kept for the moment in which it does.
type Pool struct {
	size, free int
	holders    []holder
	shares     []int // what Divide makes
}

type holder struct {
	share, held int
	wants       bool
}

// missing is how much of the floor it does not hold.
func (h *holder) missing() int { return max(0, min(Floor, h.share)-h.held) }

// growth is what it may want next, within its share.
func (h *holder) growth() int { return min(Floor, max(0, h.share-h.held)) }

// before reports whether a free chunk is for h rather than for o.
func (h *holder) before(o *holder) bool {
	if a, b := h.missing() > 0, o.missing() > 0; a != b {
		return a
	}
	return h.held*o.share < o.held*h.share
}

// NewPool divides so many chunks by needs.
func NewPool(chunks int, needs []Need) *Pool {
	p := &Pool{size: chunks, free: chunks, holders: make([]holder, len(needs)), shares: make([]int, len(needs))}
	p.Divide(needs)
	return p
}

// Divide makes the shares anew. Nobody loses what it holds: who holds more than
// its share is merely last in the order.
func (p *Pool) Divide(needs []Need) {
	Divide(p.shares, p.size, Floor, needs)
	for i, s := range p.shares {
		p.holders[i].share = s
	}
}

// Want says whether a device wants more.
func (p *Pool) Want(device int, wants bool) { p.holders[device].wants = wants }

// Held is what a device holds.
func (p *Pool) Held(device int) int { return p.holders[device].held }

// Return takes chunks back from a device.
func (p *Pool) Return(device, chunks int) {
	p.holders[device].held -= chunks
	p.free += chunks
}

// Next gives the next free chunk away: from here on, the device holds it. What
// makes up a floor is kept from those who have theirs, and what makes up a
// share from those who have more: a device that reads fast wants all there is
// all the time, and one that reads slowly never twice at once.
func (p *Pool) Next() (device int, ok bool) {
	var best *holder
	missing, growth := 0, 0
	for i := range p.holders {
		h := &p.holders[i]
		missing, growth = missing+h.missing(), growth+h.growth()
		if h.wants && (best == nil || h.before(best)) {
			best, device = h, i
		}
	}
	if best == nil {
		return 0, false
	}
	kept := growth
	switch {
	case best.missing() > 0:
		kept = 0
	case best.held < best.share:
		kept = missing
	}
	if p.free <= kept {
		return 0, false
	}
	best.held++
	p.free--
	return device, true
}
