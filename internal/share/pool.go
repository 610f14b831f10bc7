package share

// Pool divides an amount of memory, in chunks, among devices. A free chunk goes
// to the device that is furthest below its share, among those that want more.
// Other devices may use the share of a device that does not want it. Only a small
// part is reserved until the device wants it again.
type Pool struct {
	size, free int
	holders    []holder
	shares     []int // the result of Divide
}

type holder struct {
	share, held int
	wants       bool
}

// missing returns how many chunks h lacks to the floor.
func (h *holder) missing() int { return max(0, min(Floor, h.share)-h.held) }

// growth returns how many chunks h may want next, within its share.
func (h *holder) growth() int { return min(Floor, max(0, h.share-h.held)) }

// isBefore reports whether h gets a free chunk before o.
func (h *holder) isBefore(o *holder) bool {
	if a, b := h.missing() > 0, o.missing() > 0; a != b {
		return a
	}
	return h.held*o.share < o.held*h.share
}

// NewPool returns a Pool that divides a number of chunks by needs.
func NewPool(chunks int, needs []Need) *Pool {
	p := &Pool{size: chunks, free: chunks, holders: make([]holder, len(needs)), shares: make([]int, len(needs))}
	p.Divide(needs)
	return p
}

// Divide computes the shares again. A device keeps the chunks that it holds. If it
// holds more than its share, it is last in the order.
func (p *Pool) Divide(needs []Need) {
	Divide(p.shares, p.size, Floor, needs)
	for i, s := range p.shares {
		p.holders[i].share = s
	}
}

// Want sets whether a device wants more.
func (p *Pool) Want(device int, wants bool) { p.holders[device].wants = wants }

// Held returns the number of chunks that a device holds.
func (p *Pool) Held(device int) int { return p.holders[device].held }

// Return frees chunks of a device.
func (p *Pool) Return(device, chunks int) {
	p.holders[device].held -= chunks
	p.free += chunks
}

// Next gives the next free chunk to a device, which holds it from then on. A
// device below its floor may take any chunk. A device below its share may not take
// the chunks that others lack to their floors. Other devices may not take the
// growth of the others either. Without this a device that reads fast would take
// every chunk before a slow one, which never wants two at once.
func (p *Pool) Next() (device int, ok bool) {
	var best *holder
	missing, growth := 0, 0
	for i := range p.holders {
		h := &p.holders[i]
		missing, growth = missing+h.missing(), growth+h.growth()
		if h.wants && (best == nil || h.isBefore(best)) {
			best, device = h, i
		}
	}
	if best == nil {
		return 0, false
	}
	reserved := growth
	switch {
	case best.missing() > 0:
		reserved = 0
	case best.held < best.share:
		reserved = missing
	}
	if p.free <= reserved {
		return 0, false
	}
	best.held++
	p.free--
	return device, true
}
