package plan

import (
	"math"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// maxEstimate is the largest credible estimate in bytes. A larger one says nothing: xe lets a
// negative errno through.
const maxEstimate = 1 << 40

// redumpAfter is how long a device must have nothing new before that is believed: virtio dumps
// everything again, at most once a second.
const redumpAfter = 1200 * time.Millisecond

// roundEvery is the shortest time between two rounds that count: a device that is nearly clean
// passes any number of small rounds in no time.
const roundEvery = time.Second

// fading is the time after which a measurement counts for a third.
const fading = time.Second

// estimate is the knowledge about a device's stream: the driver's estimates, compared with the
// bytes that came. It is pure: the caller gives the time.
//
// The driver's numbers are hints. GET_PRECOPY_INFO may be constant, may count bytes that cannot be
// read yet, and does not include the bytes that STOP_COPY adds. MIG_DATA_SIZE may be constant,
// overlaps both, and on some drivers is the size of the whole state however much of it was sent.
type estimate struct {
	features vfio.Features
	drained  uint64 // bytes read
	applied  uint64 // bytes that the destination has written
	size     uint64 // MIG_DATA_SIZE, 0 is unknown

	polled      bool          // GET_PRECOPY_INFO has answered
	pending     vfio.Pending  // its last answer
	at          uint64        // bytes read at that answer
	dirties     float64       // bytes a second that the guest dirties
	counted     time.Duration // when the driver last looked for dirty bytes
	heard       time.Duration // when it last answered
	tracksDirty bool          // the driver has reported dirty bytes

	initialRead bool   // the initial bytes were read to their end
	initialEnd  uint64 // at this offset

	rounds    int           // how often it was drained at a new offset
	counts    int           // rounds that count: each came a while after the one before
	countedAt time.Duration // time of the last round that counts
	firstIdle time.Duration // end of the first round
	idleAt    uint64        // offset at the end of the last round
	lastRound uint64        // bytes of the last round
	lastDirty uint64        // the last dirty bytes at the end of a round, other than 0
	changedAt time.Duration // when either of them was set
}

// begin says when PRE_COPY was reached.
func (e *estimate) begin(now time.Duration) { e.counted = now }

// poll takes an answer of GET_PRECOPY_INFO, given when at bytes were read. idle says that the
// device then had nothing more to read.
func (e *estimate) poll(now time.Duration, p vfio.Pending, at uint64, idle bool) {
	p.Initial, p.Dirty = min(p.Initial, maxEstimate), min(p.Dirty, maxEstimate)
	e.drained = max(e.drained, at)
	if !idle && e.polled && e.unread() == 0 { // all estimated bytes were read, so the driver has looked for more,
		idle = p.Dirty >= e.dirtySince(now)/2 // unless these are the rest of its last find
	}
	if idle { // a driver looks for more only when it is idle
		e.noteDirty(now, p.Dirty-min(p.Dirty, e.unread()))
		if p.Dirty > 0 {
			e.lastDirty, e.changedAt = p.Dirty, now
		}
	}
	e.polled, e.pending, e.at, e.heard = true, p, at, now
	e.tracksDirty = e.tracksDirty || p.Dirty > 0
	if idle {
		e.noteRound(now, at)
	}
	switch fresh := p.Initial > 0 || p.Reinit; {
	case fresh:
		e.initialRead = false
	case !e.initialRead && (idle || at > 0): // not because nothing was ready yet
		e.initialRead, e.initialEnd = true, at
	}
}

// noteDirty takes the bytes that became dirty since the last answer.
func (e *estimate) noteDirty(now time.Duration, n uint64) {
	took := (now - e.counted).Seconds()
	if took <= 0 {
		return
	}
	e.counted = now
	weight := 1 - math.Exp(-took/fading.Seconds())
	if e.dirties == 0 {
		weight = 1
	}
	e.dirties += (e.bytesWritten(n)/took - e.dirties) * weight
}

// bytesWritten is how many bytes were written to make n bytes dirty. A byte that is written twice
// is dirty once, which is the more frequent the fewer bytes are clean.
func (e *estimate) bytesWritten(n uint64) float64 {
	if e.size == 0 || n > e.size/10*9 {
		return float64(n)
	}
	return -float64(e.size) * math.Log1p(-float64(n)/float64(e.size))
}

// unread is the part of the last answer that was not read.
func (e *estimate) unread() uint64 {
	n := e.pending.Initial + e.pending.Dirty
	return n - min(n, e.drained-min(e.drained, e.at))
}

// resize takes an answer of MIG_DATA_SIZE.
func (e *estimate) resize(n uint64) {
	if n > maxEstimate {
		n = 0
	}
	e.size = n
}

func (e *estimate) noteRound(now time.Duration, at uint64) {
	first := e.rounds == 0 || !e.initialRead // all of the state: only later rounds show the dirty bytes
	if at > e.idleAt || e.rounds == 0 {
		e.lastRound, e.changedAt = at-e.idleAt, now
		e.rounds++
		if e.rounds == 1 || now-e.countedAt >= roundEvery {
			e.counts, e.countedAt = e.counts+1, now
		}
	}
	if first {
		e.firstIdle, e.lastRound = now, 0
	}
	e.idleAt = at
}

// ready reports whether the destination has applied the initial bytes. Both sides then know that
// the destination accepts this state, and its slowest allocation is done. A device that was
// initialised again (REINIT) is no longer ready.
func (e *estimate) ready() bool {
	return !e.features.PreCopy || e.initialRead && e.applied >= e.initialEnd
}

// hidden is how many bytes were read and are not applied: they add to the downtime.
func (e *estimate) hidden() uint64 { return e.drained - min(e.drained, e.applied) }

// remaining estimates the bytes that a switchover now would have to read.
func (e *estimate) remaining(now time.Duration) uint64 {
	rest := e.size - min(e.size, e.drained)
	switch {
	case !e.features.PreCopy:
		return rest
	case e.redumps(now):
		return max(e.size, e.unread())
	}
	return max(rest, e.unread()+e.dirtySince(now))
}

// worstRemaining is the worst case of remaining. It is the whole state as long as the device has
// not had the time to show whether it dumps everything again. A driver that was polled and has not
// answered may be dumping.
func (e *estimate) worstRemaining(now time.Duration) uint64 {
	if e.features.PreCopy && !e.tracksDirty && e.rounds > 0 && e.heard-e.firstIdle < redumpAfter {
		return max(e.remaining(now), e.size)
	}
	return e.remaining(now)
}

// isKnown reports whether the driver has said how many bytes remain.
func (e *estimate) isKnown() bool {
	return e.size > 0 && !e.needsAnswer() || e.tracksDirty && !e.needsAnswer()
}

// dirtySince estimates the bytes that became dirty since the driver last looked: at most the whole
// state.
func (e *estimate) dirtySince(now time.Duration) uint64 {
	written := e.dirties * max(now-e.counted, 0).Seconds()
	if e.size > 0 {
		written = -float64(e.size) * math.Expm1(-written/float64(e.size))
	}
	return uint64(min(written, maxEstimate))
}

// needsAnswer reports whether all estimated bytes were read: only the driver's next answer reveals
// newer ones.
func (e *estimate) needsAnswer() bool {
	return e.features.PreCopy && (!e.polled || e.drained > e.at && e.unread() == 0)
}

// redumps reports whether the device yields everything again in each round, and is about to do so.
func (e *estimate) redumps(now time.Duration) bool {
	return e.size > 0 && max(e.lastRound, e.lastDirty) >= e.size/4*3 && (e.unread() > 0 || now-e.changedAt < redumpAfter)
}
