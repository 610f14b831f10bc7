// Package relay is a bad network between two programs. It forwards UDP datagrams, and
// loses, delays, repeats, damages and reorders them in each direction as its [Link]
// demands. All random choices come from a seed.
package relay

import (
	"math/rand/v2"
	"time"
)

// Link is what happens to the datagrams of one direction. The zero Link hands all
// of them on at once. It can be changed while datagrams pass.
type Link struct {
	// Shares of the datagrams, 0 to 1.
	Loss      float64
	Duplicate float64
	Corrupt   float64 // have one bit turned over
	Reorder   float64 // come up to 10 ms late, behind those that follow

	Delay  time.Duration // of every datagram
	Jitter time.Duration // up to that much more; the order stays
	Rate   int64         // bytes per second, 0 is no limit
	Queue  int           // bytes that may wait for Rate before more are lost, 0 is 256 KiB
	Most   int           // longer datagrams are lost without a message, 0 is no limit
	Cut    bool          // nothing passes
}

const (
	lateness     = 10 * time.Millisecond
	defaultQueue = 256 << 10
)

// Counts are the datagrams that something happened to.
type Counts struct {
	Passed, Lost, Duplicated, Corrupted, Reordered, Overflowed, TooLong, Cut int
}

// shaper decides the fate of the datagrams of one direction. It is pure except for its
// random choices.
type shaper struct {
	link   Link
	random *rand.Rand
	free   time.Time // when Rate lets the next byte pass
	last   time.Time // when the last one leaves that was not reordered
	counts Counts
}

// fate is the decision about a datagram: it leaves at these times (none, one or two of
// them). Bit flip of it is inverted, unless flip is -1.
type fate struct {
	at   []time.Time
	flip int
}

// pass decides about a datagram of n bytes.
func (s *shaper) pass(now time.Time, n int) fate {
	l := s.link
	// All are drawn for every datagram, so that one setting does not change the
	// random choices for another.
	lost, twice, spoilt, late := s.happens(l.Loss), s.happens(l.Duplicate), s.happens(l.Corrupt), s.happens(l.Reorder)
	more, where := s.random.Float64(), s.random.IntN(max(n, 1))
	switch {
	case l.Cut:
		s.counts.Cut++
		return fate{flip: -1}
	case l.Most > 0 && n > l.Most:
		s.counts.TooLong++
		return fate{flip: -1}
	case lost:
		s.counts.Lost++
		return fate{flip: -1}
	}
	leaves, room := s.queue(now, n)
	if !room {
		s.counts.Overflowed++
		return fate{flip: -1}
	}
	leaves = leaves.Add(l.Delay + time.Duration(more*float64(l.Jitter)))
	if late {
		s.counts.Reordered++
		leaves = leaves.Add(time.Duration((1 + more) / 2 * float64(lateness)))
	} else {
		if leaves.Before(s.last) {
			leaves = s.last
		}
		s.last = leaves
	}
	s.counts.Passed++
	f := fate{at: []time.Time{leaves}, flip: -1}
	if twice {
		s.counts.Duplicated++
		f.at = append(f.at, leaves)
	}
	if spoilt {
		s.counts.Corrupted++
		f.flip = where
	}
	return f
}

func (s *shaper) happens(share float64) bool { return s.random.Float64() < share }

// queue returns when a datagram has passed the bottleneck. It reports false if the
// bottleneck's queue is full.
func (s *shaper) queue(now time.Time, n int) (time.Time, bool) {
	if s.link.Rate == 0 {
		return now, true
	}
	if s.free.Before(now) {
		s.free = now
	}
	most := s.link.Queue
	if most == 0 {
		most = defaultQueue
	}
	if waiting := s.free.Sub(now).Seconds() * float64(s.link.Rate); waiting+float64(n) > float64(most) {
		return now, false
	}
	s.free = s.free.Add(time.Duration(float64(n) / float64(s.link.Rate) * float64(time.Second)))
	return s.free, true
}
