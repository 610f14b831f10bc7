package reader

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
)

// A carrier keeps a lane as long as anything passes. But a path may carry its small packets
// and lose the large ones, so that only what the destination says that it has read, or
// heard, proves that a lane carries what is written to it.

// proofStep is the most that one proof adds to the time for which a lane stood still. What
// comes after a longer silence, of this process or of the other one, proves no more.
const proofStep = 2 * wire.Heartbeat

// patience is how long a lane may stand still on a path of such a round trip.
func stallLimit(rtt time.Duration) time.Duration { return max(wire.UnreadTimeout, 4*rtt) }

// reading is what ACKs have said of one data lane. Times are of this side's clock.
type reading struct {
	read    uint64        // bytes, as last told
	unread  bool          // and there was more
	from    time.Duration // since when that is known; or the last proof after that
	stalled time.Duration // for how long nothing was read since, as far as ACKs prove it
	// suspect says that the control lane was not heard for the limit, and so no ACK of this
	// lane: what has held that up may hold this one up as well. It stands still from then on.
	suspect bool
}

// look takes in what was written to the lane by now, and what an ACK says that the
// destination had read. The ACK was made at a time, or later. It reports whether the lane
// has stood still for the limit.
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

// renew begins with another lane of the same number. What is told of the one before is no
// proof for it.
func (r *reading) restart(now time.Duration) { r.from, r.stalled = now, 0 }

// carrying is for how long the data lanes together have carried nothing. A lane that is dialled
// again does not begin it over.
type jointReading struct {
	from    time.Duration // the last proof that they carried something, or that they did not
	stalled time.Duration // for how long nothing was read since, as far as ACKs prove it
}

// shown is what an ACK shows of the lanes that stand.
type lanesSeen struct {
	rose   bool // more was read of one than the last time
	unread bool // more was written to one than was read of it
	read   bool // something was written to one, and all of it was read
}

// look takes in an ACK, which was made at a time, or later. It reports whether nothing was
// carried for the limit. Lanes to which nothing was written yet prove nothing.
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

// hearing is what proves that the destination hears the control lane: it echoes the
// ESTIMATEs, and answers QUERY.
type hearing struct {
	echo   time.Duration // the newest
	at     time.Duration // of the last look
	waited time.Duration // for a proof, without the time in which this process stood still
	trip   time.Duration // the last round trip
	acked  time.Duration // when the last ACK came
	sound  time.Duration // when ACKs last began to come as they should
}

// proved takes in a proof.
func (h *hearing) prove(now time.Duration) { h.at, h.waited = now, 0 }

// echoed takes in an ACK. Only an echo that is newer proves that something was heard since.
// It reports whether the echo is one to measure the round trip with: what was said before a
// gap between two ACKs has waited for a process that stood still, or for another lane.
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

// look reports, at each tick, whether a proof has been due for the limit.
func (h *hearing) isOverdue(now, limit time.Duration) bool {
	h.waited += min(now-h.at, 2*tick)
	h.at = now
	return h.waited >= limit
}
