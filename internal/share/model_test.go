package share

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
)

// This file has a model of a migration's STOP_COPY. It uses the real policies of this
// package, and computes everything else: devices are read and written at constant rates,
// and one link carries one chunk after the other. Times are in seconds, rates in bytes per
// second.

const (
	kib, mib, gib = 1 << 10, 1 << 20, 1 << 30
	tick          = 0.1 // interval of the estimates, as in the engines
)

// device is a device of the model.
type device struct {
	size       int
	save, load float64
	priority   uint8
	lie        lie
}

// lie returns the nth estimate for a true number of bytes.
type lie func(n int, bytes uint64) (uint64, bool)

func truth(_ int, bytes uint64) (uint64, bool) { return bytes, true }

// setting describes the hosts and the link.
type setting struct {
	link       float64
	rtt        float64
	ackDelay   float64
	chunk      int
	lanes      int
	from, into int // chunks of memory, at the source and at the destination
}

// usual is a setting of two hosts with 32 MiB each and a link of 10 Gbit/s with a short
// delay.
var usual = setting{link: 1.2e9, rtt: 200e-6, ackDelay: 50e-6, chunk: mib, lanes: 2, from: 30, into: 30}

// memory chooses the device that reads next, and order the device that sends next.
type memory interface {
	Want(device int, wants bool)
	Return(device, chunks int)
	Next() (device int, ok bool)
}
type order interface {
	Ready(device int, ready bool)
	Next() (device int, ok bool)
	Take(device, bytes int)
}

// policy is a way to divide memory and lanes.
type policy uint8

const (
	byEstimate policy = iota // the policy of the engines
	equal                    // the same share for each device
	firstCome                // equal windows; memory and lanes in the order of requests
)

func (p policy) String() string { return [...]string{"estimate", "equal", "first-come"}[p] }

// model is the state of a simulated migration.
type model struct {
	setting
	policy  policy
	devices []device
	memory  memory
	order   order
	ledger  *Ledger
	state   []progress
	events  events
	thought int // events so far
	now     float64
	asked   int // number of estimates
	busy    int // chunks that lanes have taken
	freeAt  float64
	worst   error
	end     float64
	done    func(i int) // called when a device has its whole stream
}

// progress is the progress of a device.
type progress struct {
	read    int       // bytes
	queued  []float64 // chunks at the source, by when they were read
	cut     int       // chunks
	sent    int       // chunks that lanes took
	window  uint64    // as the source knows it
	arrived int       // chunks
	applied int       // chunks
	loading bool
}

func newModel(s setting, p policy, devices []device) *model {
	m := &model{setting: s, policy: p, devices: devices, state: make([]progress, len(devices))}
	needs := m.needs(m.unread)
	pool, turns := NewPool(s.from, needs), NewTurns(needs)
	m.memory, m.order, m.ledger = pool, turns, NewLedger(s.into, needs)
	if p == firstCome {
		m.memory, m.order = &firstMemory{free: s.from}, &firstOrder{m: m, ready: make([]bool, len(devices))}
	}
	for i := range devices {
		m.state[i].window = m.ledger.Promised(i)
	}
	return m
}

// run computes the makespan: the time at which the last chunk is applied.
func (m *model) run() (float64, error) {
	for i := range m.devices {
		m.memory.Want(i, true)
	}
	m.readMore()
	m.at(tick, m.estimate)
	for len(m.events) > 0 && m.worst == nil {
		e := heap.Pop(&m.events).(event)
		m.now = e.at
		e.do()
		m.check()
	}
	for i, d := range m.devices {
		if s := m.state[i]; m.worst == nil && s.applied < chunks(d.size, m.chunk) {
			m.worst = fmt.Errorf("device %d stopped at chunk %d of %d", i, s.applied, chunks(d.size, m.chunk))
		}
	}
	return m.end, m.worst
}

func (m *model) at(t float64, do func()) {
	m.thought++
	heap.Push(&m.events, event{t, m.thought, do})
}

// check compares the promises with the memory.
func (m *model) check() {
	sum := 0
	for i, s := range m.state {
		open := int(m.ledger.Promised(i)) - s.applied
		sum += open
		if left := chunks(m.devices[i].size, m.chunk) - s.applied; open < min(Floor, left) {
			m.worst = fmt.Errorf("device %d has credit for %d chunks, but only %d left", i, open, left)
		}
	}
	if sum > m.into {
		m.worst = fmt.Errorf("%d chunks are promised, but memory is for %d", sum, m.into)
	}
}

// needs returns the estimates for the bytes that remain returns.
func (m *model) needs(remain func(i int) int) []Need {
	needs := make([]Need, len(m.devices))
	for i, d := range m.devices {
		if m.policy != byEstimate {
			continue
		}
		bytes, known := d.lie(m.asked, uint64(d.size))
		done := uint64(d.size - remain(i))
		needs[i] = Need{Bytes: bytes - min(bytes, done), Known: known, Priority: d.priority}
	}
	return needs
}

func (m *model) unread(i int) int { return m.devices[i].size - m.state[i].read }
func (m *model) unsent(i int) int { return m.unread(i) + len(m.state[i].queued)*m.chunk }
func (m *model) unapplied(i int) int {
	return m.devices[i].size - min(m.devices[i].size, m.state[i].applied*m.chunk)
}

// estimate reports the estimates, at each tick.
func (m *model) estimate() {
	m.asked++
	if pool, ok := m.memory.(*Pool); ok {
		pool.Divide(m.needs(m.unread))
		m.order.(*Turns).Divide(m.needs(m.unsent))
	}
	m.at(m.now+m.rtt/2, func() { m.ledger.Divide(m.needs(m.unapplied)) })
	for i := range m.devices {
		if m.unapplied(i) > 0 {
			m.at(m.now+tick, m.estimate)
			return
		}
	}
}

// readMore makes the devices that get memory read.
func (m *model) readMore() {
	for i, ok := m.memory.Next(); ok; i, ok = m.memory.Next() {
		m.memory.Want(i, false)
		s := &m.state[i]
		n := min(m.chunk, m.unread(i))
		m.at(m.now+float64(n)/m.devices[i].save, func() {
			s.read, s.cut, s.queued = s.read+n, s.cut+1, append(s.queued, m.now)
			if m.unread(i) > 0 {
				m.memory.Want(i, true)
				m.readMore()
			} else {
				m.at(m.now+m.rtt/2, func() { m.ledger.End(i, uint64(s.cut), uint64(s.arrived)) })
			}
			m.sendMore()
		})
	}
}

// sendMore gives chunks to free lanes. The link carries them in that order.
func (m *model) sendMore() {
	for i := range m.state {
		s := &m.state[i]
		m.order.Ready(i, len(s.queued) > 0 && uint64(s.sent) < s.window)
	}
	i, ok := m.order.Next()
	if !ok || m.busy == m.lanes {
		return
	}
	s := &m.state[i]
	n := m.bytes(i, s.sent)
	m.order.Take(i, n)
	s.queued, s.sent = s.queued[1:], s.sent+1
	m.busy++
	m.freeAt = max(m.now, m.freeAt) + float64(n)/m.link
	m.at(m.freeAt, func() {
		m.busy--
		m.memory.Return(i, 1)
		m.at(m.now+m.rtt/2, func() { s.arrived++; m.load(i) })
		m.readMore()
		m.sendMore()
	})
	m.sendMore()
}

// load makes a device write the chunks that have arrived.
func (m *model) load(i int) {
	s := &m.state[i]
	if s.loading || s.applied == s.arrived {
		return
	}
	s.loading = true
	m.at(m.now+float64(m.bytes(i, s.applied))/m.devices[i].load, func() {
		s.loading, s.applied, m.end = false, s.applied+1, m.now
		m.ledger.Applied(i)
		if m.done != nil && m.unapplied(i) == 0 {
			m.done(i)
		}
		if m.ledger.Due() || s.applied == s.arrived {
			m.ack()
		}
		m.load(i)
	})
}

// ack reports all promises to the source.
func (m *model) ack() {
	m.ledger.MarkReported()
	windows := make([]uint64, len(m.state))
	for i := range m.state {
		windows[i] = m.ledger.Promised(i)
	}
	m.at(m.now+m.ackDelay+m.rtt/2, func() {
		for i := range m.state {
			m.state[i].window = max(m.state[i].window, windows[i])
		}
		m.sendMore()
	})
}

// bytes returns the length of a device's chunk number seq.
func (m *model) bytes(i, seq int) int { return min(m.chunk, m.devices[i].size-seq*m.chunk) }

func chunks(size, chunk int) int { return (size + chunk - 1) / chunk }

// bound returns a lower bound of the makespan for every policy: the time of the link for all
// bytes, or of a device that has both hosts to itself.
func (s setting) bound(devices []device) (least float64) {
	total := 0.0
	for _, d := range devices {
		total += float64(d.size)
		least = max(least, s.alone(d))
	}
	return max(least, total/s.link)
}

// alone returns the time of a device that has both hosts to itself. The stages are read, send
// and write. The slowest stage processes all bytes, after the earlier stages have processed
// the first chunk, and before the later stages process the last one.
func (s setting) alone(d device) (least float64) {
	first := float64(min(d.size, s.chunk))
	last := float64(d.size - (chunks(d.size, s.chunk)-1)*s.chunk)
	rates := []float64{d.save, s.link, d.load}
	for slow := range rates {
		took := s.rtt / 2
		for i, rate := range rates {
			took += []float64{first, float64(d.size), last}[cmp.Compare(i, slow)+1] / rate
		}
		least = max(least, took)
	}
	return least
}

// firstMemory gives memory to the device that has waited longest.
type firstMemory struct {
	free    int
	waiting []int
}

func (f *firstMemory) Want(i int, wants bool) {
	if wants {
		f.waiting = append(f.waiting, i)
	}
}
func (f *firstMemory) Return(_, n int) { f.free += n }
func (f *firstMemory) Next() (int, bool) {
	if f.free == 0 || len(f.waiting) == 0 {
		return 0, false
	}
	i := f.waiting[0]
	f.free, f.waiting = f.free-1, f.waiting[1:]
	return i, true
}

// firstOrder sends the chunk that was read first.
type firstOrder struct {
	m     *model
	ready []bool
}

func (f *firstOrder) Ready(i int, ready bool) { f.ready[i] = ready }
func (f *firstOrder) Take(_, _ int)           {}
func (f *firstOrder) Next() (best int, ok bool) {
	least := math.Inf(1)
	for i, s := range f.m.state {
		if f.ready[i] && s.queued[0] < least {
			best, least, ok = i, s.queued[0], true
		}
	}
	return best, ok
}

// events are the future events, in the order of their times. Events of the same time are in
// the order in which they were added.
type event struct {
	at  float64
	seq int
	do  func()
}
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}
