package reader

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
)

// A carrier holds a lane open as long as any packet passes. But a path may carry its small
// packets and lose the large ones. Only the destination's reports of read or heard bytes
// prove that a lane carries the bytes written to it.

// proofStep is the most that one ACK adds to the time for which nothing was read of a lane. A
// longer silence may be a pause of this process or of the other one: it proves no more.
const proofStep = 2 * wire.Heartbeat

// stallLimit is how long nothing may be read of a lane, on a path with such a round trip.
func stallLimit(rtt time.Duration) time.Duration { return max(wire.UnreadTimeout, 4*rtt) }

// reading is the state of one data lane, as ACKs report it. Times are of this side's clock.
type reading struct {
	read    uint64        // bytes, by the last ACK
	unread  bool          // more was written than read
	from    time.Duration // when that was first known, or the last proof after that
	stalled time.Duration // for how long nothing was read since, as far as ACKs prove it
	// suspect says that no ACK came within the limit of the control lane: the cause may hold up
	// this data lane as well. The lane counts as stalled from the next ACK on.
	suspect bool
}

// observe takes the bytes that were written to the lane by now, and the bytes that the destination
// had read by an ACK. made is the earliest time at which that ACK was made. observe reports whether
// nothing was read for the limit.
func (r *reading) observe(now, made time.Duration, written, read uint64, limit time.Duration) bool {
	if r.suspect || read != r.read || read == written || !r.unread {
		was := *r
		*r = reading{read: read, unread: read != written, from: now}
		if was.suspect {
			r.stalled = limit - limit/8
		}
		return false
	}
	if step := made - r.from; step > 0 {
		r.stalled += min(step, proofStep)
		r.from = made
	}
	return r.stalled >= limit
}

// restart begins with another lane of the same number. ACKs about the earlier lane prove nothing
// for it.
func (r *reading) restart(now time.Duration) { r.from, r.stalled = now, 0 }

// jointReading is for how long nothing was read of all data lanes together. A lane that is dialled
// again does not restart it.
type jointReading struct {
	from    time.Duration // the last proof that something was read, or that nothing was
	stalled time.Duration // for how long nothing was read since, as far as ACKs prove it
}

// lanesSeen is what an ACK shows of the open lanes.
type lanesSeen struct {
	rose   bool // more was read of one lane than before
	unread bool // more was written to one lane than was read of it
	read   bool // something was written to one lane, and all of it was read
}

// observe takes an ACK. made is the earliest time at which it was made. observe reports whether
// nothing was read for the limit. Lanes to which nothing was written yet prove nothing.
func (c *jointReading) observe(now, made time.Duration, t lanesSeen, limit time.Duration) bool {
	switch {
	case t.rose || t.read && !t.unread:
		*c = jointReading{from: now}
	case t.unread && made > c.from:
		c.stalled += min(made-c.from, proofStep)
		c.from = made
	}
	return c.stalled >= limit
}

// hearing proves that the destination hears the control lane: the destination echoes ESTIMATEs, and
// answers QUERY.
type hearing struct {
	echo   time.Duration // the newest
	at     time.Duration // the last tick
	waited time.Duration // for a proof, without the time in which this process was stopped
	trip   time.Duration // the last round trip
	acked  time.Duration // when the last ACK came
	sound  time.Duration // when ACKs last began to come regularly
}

// prove takes a proof.
func (h *hearing) prove(now time.Duration) { h.at, h.waited = now, 0 }

// noteEcho takes an ACK. Only an echo that is newer than the last proves that the destination has
// heard something since. noteEcho reports whether the echo can measure the round trip: an ESTIMATE
// from before a gap between two ACKs has waited for a stopped process, or for another lane.
func (h *hearing) noteEcho(now, echo, held time.Duration) (sound bool) {
	if now-h.acked > proofStep {
		h.sound = now
	}
	h.acked = now
	sound = echo >= h.sound
	if echo > h.echo {
		h.echo = echo
		h.prove(now)
		if sound {
			h.trip = now - echo - held
		}
	}
	return sound
}

// isOverdue reports, at each tick, whether a proof has been due for the limit.
func (h *hearing) isOverdue(now, limit time.Duration) bool {
	h.waited += min(now-h.at, 2*tick)
	h.at = now
	return h.waited >= limit
}
