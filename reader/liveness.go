package reader

import (
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// A carrier keeps a lane as long as anything passes. But a path may carry its small packets
// and lose the large ones, so that only what the destination says that it has read, or
// heard, proves that a lane carries what is written to it.

// proofStep is the most that one proof adds to the time for which a lane stood still. What
// comes after a longer silence, of this process or of the other one, proves no more.
const proofStep = 2 * transport.Heartbeat

// patience is how long a lane may stand still on a path of such a round trip.
func patience(rtt time.Duration) time.Duration { return max(transport.UnreadTimeout, 4*rtt) }

// reading is what ACKs have said of one data lane. Times are of this side's clock.
type reading struct {
	read   uint64        // bytes, as last told
	unread bool          // and there was more
	from   time.Duration // since when that is known; or the last proof after that
	stood  time.Duration // for how long nothing was read since, as far as ACKs prove it
	// suspect says that the control lane was not heard for the limit, and so no ACK of this
	// lane: what has held that up may hold this one up as well. It stands still from then on.
	suspect bool
}

// look takes in what was written to the lane by now, and what an ACK says that the
// destination had read. The ACK was made at a time, or later. It reports whether the lane
// has stood still for the limit.
func (r *reading) look(now, made time.Duration, written, read uint64, limit time.Duration) bool {
	if r.suspect || read != r.read || read == written || !r.unread {
		was := *r
		*r = reading{read: read, unread: read != written, from: now}
		if was.suspect {
			r.stood = limit - limit/8
		}
		return false
	}
	if step := made - r.from; step > 0 {
		r.stood += min(step, proofStep)
		r.from = made
	}
	return r.stood >= limit
}

// renew begins with another lane of the same number. What is told of the one before is no
// proof for it.
func (r *reading) renew(now time.Duration) { r.from, r.stood = now, 0 }

// carrying is for how long the data lanes together have carried nothing. A lane that is dialled
// again does not begin it over.
type carrying struct {
	from  time.Duration // the last proof that they carried something, or that they did not
	stood time.Duration // for how long nothing was read since, as far as ACKs prove it
}

// shown is what an ACK shows of the lanes that stand.
type shown struct {
	rose   bool // more was read of one than the last time
	unread bool // more was written to one than was read of it
	read   bool // something was written to one, and all of it was read
}

// look takes in an ACK, which was made at a time, or later. It reports whether nothing was
// carried for the limit. Lanes to which nothing was written yet prove nothing.
func (c *carrying) look(now, made time.Duration, t shown, limit time.Duration) bool {
	switch {
	case t.rose || t.read && !t.unread:
		*c = carrying{from: now}
	case t.unread && made > c.from:
		c.stood += min(made-c.from, proofStep)
		c.from = made
	}
	return c.stood >= limit
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
func (h *hearing) proved(now time.Duration) { h.at, h.waited = now, 0 }

// echoed takes in an ACK. Only an echo that is newer proves that something was heard since.
// It reports whether the echo is one to measure the round trip with: what was said before a
// gap between two ACKs has waited for a process that stood still, or for another lane.
func (h *hearing) echoed(now, echo, held time.Duration) (sound bool) {
	if now-h.acked > proofStep {
		h.sound = now
	}
	h.acked = now
	sound = echo >= h.sound
	if echo > h.echo {
		h.echo = echo
		h.proved(now)
		if sound {
			h.trip = now - echo - held
		}
	}
	return sound
}

// look reports, at each tick, whether a proof has been due for the limit.
func (h *hearing) look(now, limit time.Duration) bool {
	h.waited += min(now-h.at, 2*tick)
	h.at = now
	return h.waited >= limit
}

// patience is how long this migration's lanes may stand still.
func (e *engine) patience() time.Duration {
	return patience(max(e.pipe.meter.rtt, e.conn.hearing.trip))
}

// watchReading gives the data lanes up of which nothing is read, and ends the attempt
// where that helps none of them.
func (e *engine) watchReading(m *transport.Ack) {
	if m.Echo <= 0 || !e.owner.AwaitsReady() {
		return
	}
	limit := e.patience()
	stalled, idle := e.pipe.checkReading(m, limit, e.opts.ReconnectLimit)
	for _, number := range stalled {
		e.pipe.giveUpLane(number, limit)
		if !e.pipe.unread {
			e.pipe.unread = true
			e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("the destination answers, and has read nothing of what data lane %d carries for %v: such lanes are dialled again. If a router on the way loses large packets, its MTU is smaller than that of the interfaces here and there", number, report.RoundTime(limit))})
		}
	}
	if idle {
		e.failed(&transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("the destination answers, and has read nothing of any data lane for %v", e.opts.ReconnectLimit)})
	}
}

// checkReading takes in what an ACK says that the destination has read. It gives the lanes that
// have stood still for a limit, and reports whether all of them together have for another.
func (p *pipeline) checkReading(m *transport.Ack, each, all time.Duration) (stalled []int, idle bool) {
	now := time.Since(p.start)
	made := min(now, time.Duration(m.Echo)+time.Duration(max(m.HeldNS, 0)))
	var seen shown
	for i, lane := range p.lanes {
		if i >= len(m.Read) || lane == nil || transport.Local(lane) {
			continue
		}
		written, read := p.written[i].Load(), m.Read[i]
		seen.rose = seen.rose || read > p.readings[i].read
		seen.unread = seen.unread || read < written
		seen.read = seen.read || read == written && read > 0
		if p.readings[i].look(now, made, written, read, each) {
			p.readings[i].renew(now)
			stalled = append(stalled, i)
		}
	}
	return stalled, p.carried.look(now, made, seen, all)
}

// giveUpLane has the sender of a lane end, which has it dialled again.
func (p *pipeline) giveUpLane(number int, limit time.Duration) {
	p.queue.lose(number, fmt.Errorf("%w: nothing of what it carries was read for %v", transport.ErrLost, limit))
	stoodStill(p.lanes[number])
	p.lanes[number].SetDeadline(time.Unix(1, 0))
}

// suspectLanes says that the control lane was not heard for the limit, and so no ACK.
func (p *pipeline) suspectLanes() {
	for i := range p.readings {
		p.readings[i].suspect = true
	}
}

// watchHearing drops the control lane if the destination does not hear it, although it
// stands. In doubt only an answer to QUERY shows that.
func (e *engine) watchHearing() {
	doubt := e.owner.InDoubt()
	limit := e.patience()
	if !e.conn.unheard(limit, doubt, !doubt && !e.owner.AwaitsReady()) {
		return
	}
	e.pipe.suspectLanes()
	stoodStill(e.conn.control.Lane())
	e.lose(fmt.Errorf("%w: %w for %v", transport.ErrLost, errUnheard, report.RoundTime(limit)))
}

// stoodStill tells the carrier of a lane.
func stoodStill(l transport.Lane) {
	if s, ok := l.(transport.Stalling); ok {
		s.StoodStill()
	}
}

var errUnheard = errors.New("the connection stands, and the destination has not answered what is said on it")
