package relay

import (
	"container/heap"
	"sync"
	"time"
)

// maxWaiting bounds the bytes that are on their way in one direction.
const maxWaiting = 16 << 20

// line carries the datagrams of one direction.
type line struct {
	mu      sync.Mutex
	shaper  shaper
	waiting packets
	bytes   int // of waiting
	order   uint64
	wake    chan struct{} // has room for one: the earliest may have changed
}

// packet is a datagram that leaves at a given time, by send.
type packet struct {
	at    time.Time
	order uint64 // among those of one time
	data  []byte
	send  func([]byte)
}

// put queues a datagram. The line owns data from then on.
func (l *line) put(now time.Time, data []byte, send func([]byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.shaper.pass(now, len(data))
	for _, at := range f.at {
		if l.bytes+len(data) > maxWaiting {
			l.shaper.counts.Overflowed++
			return
		}
		l.order++
		l.bytes += len(data)
		heap.Push(&l.waiting, packet{at, l.order, data, send})
	}
	if f.flip >= 0 {
		data[f.flip] ^= 1 << (l.order % 8)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns the packets that are due, or the time until the next one, -1 for never.
func (l *line) take(now time.Time) (due []packet, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 && !l.waiting[0].at.After(now) {
		p := heap.Pop(&l.waiting).(packet)
		l.bytes -= len(p.data)
		if !l.shaper.link.Cut { // what is on its way when a cable is cut is lost too
			due = append(due, p)
		}
	}
	if len(l.waiting) == 0 {
		return due, -1
	}
	return due, l.waiting[0].at.Sub(now)
}

// run sends what is due until quit.
func (l *line) run(quit <-chan struct{}) {
	for {
		due, wait := l.take(time.Now())
		for _, p := range due {
			p.send(p.data)
		}
		var later <-chan time.Time
		if wait >= 0 {
			later = time.After(wait)
		}
		select {
		case <-later:
		case <-l.wake:
		case <-quit:
			return
		}
	}
}

func (l *line) set(change func(*Link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.shaper.link)
}

func (l *line) counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shaper.counts
}

// packets is a heap by time.
type packets []packet

// Len is part of heap.Interface, as are the others.
func (p packets) Len() int { return len(p) }

// Less puts the earliest first.
func (p packets) Less(i, j int) bool {
	if !p[i].at.Equal(p[j].at) {
		return p[i].at.Before(p[j].at)
	}
	return p[i].order < p[j].order
}

// Swap exchanges two.
func (p packets) Swap(i, j int) { p[i], p[j] = p[j], p[i] }

// Push appends one.
func (p *packets) Push(x any) { *p = append(*p, x.(packet)) }

// Pop removes the last.
func (p *packets) Pop() any {
	old := *p
	last := old[len(old)-1]
	*p = old[:len(old)-1]
	return last
}
