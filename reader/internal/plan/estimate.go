package plan

import (
	"math"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// maxEstimate is the most bytes that an estimate is believed to mean: what lies
// above (xe lets a negative errno through) says nothing.
const maxEstimate = 1 << 40

// redumpAfter is how long a device is watched before it is believed to have
// nothing new: virtio dumps everything again, at most once a second.
const redumpAfter = 1200 * time.Millisecond

// roundEvery is the time from one round that counts to the next: a device that is
// nearly clean goes through any number of small ones in no time.
const roundEvery = time.Second

// fading is the time after which a measurement counts for a third.
const fading = time.Second

// estimate is what is known of a device's stream: what the driver says, held
// against what came. It is pure: time is given.
//
// The driver's numbers are hints. GET_PRECOPY_INFO's may be constant, may count
// bytes that cannot be read yet, and say nothing of what STOP_COPY adds;
// MIG_DATA_SIZE may be constant, overlaps both, and on some drivers is the size
// of the whole state whatever was sent of it.
type estimate struct {
	features vfio.Features
	drained  uint64 // bytes read
	applied  uint64 // bytes that the destination has written
	size     uint64 // MIG_DATA_SIZE, 0 is unknown

	polled      bool          // GET_PRECOPY_INFO has answered
	pending     vfio.Pending  // its last answer
	at          uint64        // bytes read when it was given
	dirties     float64       // bytes a second that the guest dirties
	counted     time.Duration // when the driver last looked
	heard       time.Duration // when it last answered
	tracksDirty bool          // dirty bytes were seen

	initialRead bool   // the initial bytes were read to their end
	initialEnd  uint64 // at this offset

	rounds    int           // how often it was found drained at a new offset
	counts    int           // of them, those that came a while after the one before
	countedAt time.Duration // the last of those
	firstIdle time.Duration // when it first was
	idleAt    uint64        // the offset at which it last was
	lastRound uint64        // bytes between the last two of these
	lastDirty uint64        // the last dirty bytes then, but for none
	changedAt time.Duration // when either was seen
}

// begin says when PRE_COPY was reached.
func (e *estimate) begin(now time.Duration) { e.counted = now }

// poll takes in an answer of GET_PRECOPY_INFO, given when at bytes were read;
// idle says that the device had nothing more to read then.
func (e *estimate) poll(now time.Duration, p vfio.Pending, at uint64, idle bool) {
	p.Initial, p.Dirty = min(p.Initial, maxEstimate), min(p.Dirty, maxEstimate)
	e.drained = max(e.drained, at)
	if !idle && e.polled && e.unread() == 0 { // all that it had told of was read: it has looked for more,
		idle = p.Dirty >= e.dirtySince(now)/2 // unless this is a rest of what it found before
	}
	if idle { // only then does a driver look for more
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

// noteDirty takes in what has become dirty since the last answer.
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

// bytesWritten is how much was written to make n bytes dirty: what is written twice is
// dirty once, the more often the less is clean.
func (e *estimate) bytesWritten(n uint64) float64 {
	if e.size == 0 || n > e.size/10*9 {
		return float64(n)
	}
	return -float64(e.size) * math.Log1p(-float64(n)/float64(e.size))
}

// unread is what is left of the last answer.
func (e *estimate) unread() uint64 {
	n := e.pending.Initial + e.pending.Dirty
	return n - min(n, e.drained-min(e.drained, e.at))
}

// resize takes in an answer of MIG_DATA_SIZE.
func (e *estimate) resize(n uint64) {
	if n > maxEstimate {
		n = 0
	}
	e.size = n
}

func (e *estimate) noteRound(now time.Duration, at uint64) {
	first := e.rounds == 0 || !e.initialRead // all of the state: the rounds after it say how it goes on
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

// ready reports whether the destination has applied the initial bytes: both
// sides then know that it takes this state, and has what takes it longest.
// A device that was initialised anew (REINIT) is no longer ready.
func (e *estimate) ready() bool {
	return !e.features.PreCopy || e.initialRead && e.applied >= e.initialEnd
}

// hidden is what was read and is not applied: downtime to come.
func (e *estimate) hidden() uint64 { return e.drained - min(e.drained, e.applied) }

// left estimates the bytes that a stop now would have to read.
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

// worstLeft is what left may turn out to be: everything, as long as the device has not
// had the time to show whether it dumps everything anew. A driver that is asked and
// has not answered may be dumping.
func (e *estimate) worstRemaining(now time.Duration) uint64 {
	if e.features.PreCopy && !e.tracksDirty && e.rounds > 0 && e.heard-e.firstIdle < redumpAfter {
		return max(e.remaining(now), e.size)
	}
	return e.remaining(now)
}

// known reports whether the driver has said how much is left.
func (e *estimate) isKnown() bool {
	return e.size > 0 && !e.needsAnswer() || e.tracksDirty && !e.needsAnswer()
}

// dirtySince is what has probably become dirty since the driver last looked: no more
// than there is.
func (e *estimate) dirtySince(now time.Duration) uint64 {
	written := e.dirties * max(now-e.counted, 0).Seconds()
	if e.size > 0 {
		written = -float64(e.size) * math.Expm1(-written/float64(e.size))
	}
	return uint64(min(written, maxEstimate))
}

// needsAnswer reports whether all that the driver has told of was read: what has come
// since, only its next answer tells.
func (e *estimate) needsAnswer() bool {
	return e.features.PreCopy && (!e.polled || e.drained > e.at && e.unread() == 0)
}

// redumps reports whether the device gives everything anew in each round, and is
// about to again.
func (e *estimate) redumps(now time.Duration) bool {
	return e.size > 0 && max(e.lastRound, e.lastDirty) >= e.size/4*3 && (e.unread() > 0 || now-e.changedAt < redumpAfter)
}
