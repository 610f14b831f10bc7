package sim

import "time"

// pace is how far a device has come with saving. Nothing runs beside the
// caller: whoever looks computes what has been made by then.
type pace struct {
	rate   int64 // bytes per second, 0 = at once
	chunk  int64 // bytes that become readable together, 0 = every byte by itself
	chunks int64 // how many may be unread before the device idles

	base  int64     // made at the time below
	since time.Time // when the device last began to make bytes
	ready int64     // readable bytes, never fewer than before
}

// limit is where the device has to stop for a reader who is at pos.
func (p *pace) limit(pos, planned int64) int64 {
	if p.chunk == 0 {
		return planned
	}
	return min(planned, (pos/p.chunk+p.chunks)*p.chunk)
}

// look brings ready up to now. Being called before pos or planned change, it
// sees every moment at which the device began to idle.
func (p *pace) look(now time.Time, pos, planned int64) {
	limit := p.limit(pos, planned)
	made := limit
	if p.rate > 0 {
		made = p.base + bytesIn(p.rate, now.Sub(p.since))
	}
	if made >= limit {
		made = limit
		p.base, p.since = limit, now
	}
	p.ready = max(p.ready, p.whole(made, planned))
}

// whole is how much of what was made is readable: whole chunks, and the end.
func (p *pace) whole(made, planned int64) int64 {
	if p.chunk == 0 || made >= planned {
		return made
	}
	return made / p.chunk * p.chunk
}

// wait is how long it takes from now until more is ready.
func (p *pace) wait(now time.Time, planned int64) time.Duration {
	next := planned
	if p.chunk > 0 {
		next = min(planned, (p.ready/p.chunk+1)*p.chunk)
	}
	return max(timeFor(p.rate, next-p.base)-now.Sub(p.since), 1)
}
