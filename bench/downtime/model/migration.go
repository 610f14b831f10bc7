package model

import "time"

// migration is the state of a run.
type migration struct {
	clock
	strategy Strategy
	link     Link
	devices  []*device
	free     time.Duration // when the link has sent everything queued
	readers  []*reader
	writers  []*writer
	stopped  int // devices in STOP_COPY
	cuts     Cuts

	paused, filled, ended bool // whether that cut is set
}

// device is the progress of a device, on both sides. All counts are bytes of its stream.
type device struct {
	Device
	planned int64 // bytes that the source is asked to save
	made    int64 // bytes that it has saved
	saving  bool
	read    int64
	written int64
	loaded  int64
	reader  *reader
	writer  *writer
}

func newMigration(s Strategy, link Link, devices []Device) *migration {
	m := &migration{strategy: s, link: link}
	for _, d := range devices {
		m.devices = append(m.devices, &device{Device: d, planned: d.Initial})
	}
	return m
}

// precopy moves the initial bytes while the guest runs.
func (m *migration) precopy() {
	m.hire(m.strategy.Precopy, func(d *device) int64 { return d.Initial })
	for _, d := range m.devices {
		m.save(d)
	}
	m.wake()
	m.advance()
}

// hire gives every device a thread on both sides, or one thread to all of them.
func (m *migration) hire(each bool, to func(*device) int64) {
	threads := 1
	if each {
		threads = len(m.devices)
	}
	if len(m.readers) != threads { // else the readers continue with their own devices
		m.readers, m.writers = make([]*reader, threads), make([]*writer, threads)
		for i := range threads {
			m.readers[i], m.writers[i] = &reader{m: m}, &writer{m: m}
		}
	}
	for i, d := range m.devices {
		d.reader, d.writer = m.readers[i%threads], m.writers[i%threads]
		d.reader.devices, d.reader.to = append(d.reader.devices, d), to
	}
}

func (m *migration) wake() {
	for _, r := range m.readers {
		r.wake()
	}
}

// advance runs after every read or written byte: it ends the phases.
func (m *migration) advance() {
	switch {
	case !m.paused && m.initialDone():
		m.paused = true
		wait := time.Duration(0)
		if m.strategy.Ack {
			wait = m.link.RTT / 2
		}
		m.after(wait, m.stop)
	case m.stopped == len(m.devices) && !m.ended && m.all(func(d *device) bool { return d.written == d.Initial+d.Dirty }):
		m.finish()
	}
}

func (m *migration) initialDone() bool {
	return m.all(func(d *device) bool {
		if m.strategy.Ack {
			return d.written == d.Initial
		}
		return d.read == d.Initial
	})
}

func (m *migration) all(is func(*device) bool) bool {
	for _, d := range m.devices {
		if !is(d) {
			return false
		}
	}
	return true
}

// stop pauses the guest and takes the devices to STOP_COPY.
func (m *migration) stop() {
	m.cuts.Paused = m.now
	var at time.Duration
	for _, d := range m.devices {
		if m.strategy.Stop {
			at = 0
		}
		at += d.Stop
		m.after(at, func() { m.reached(d) })
	}
}

// reached records a device in STOP_COPY. No device is read before all are there.
func (m *migration) reached(d *device) {
	d.planned = d.Initial + d.Dirty
	m.save(d)
	if m.stopped++; m.stopped < len(m.devices) {
		return
	}
	m.cuts.Stopped = m.now
	m.hire(m.strategy.Window, func(d *device) int64 { return d.Initial + d.Dirty })
	m.wake()
	m.advance()
}

// finish starts the devices. All of them have loaded their streams.
func (m *migration) finish() {
	m.ended = true
	m.cuts.Loaded = m.now
	if m.strategy.Commit {
		m.now += m.link.RTT
	}
	m.cuts.Agreed = m.now
	var at, last time.Duration
	for _, d := range m.devices {
		if m.strategy.Start {
			at = 0
		}
		at += d.Start
		last = max(last, at)
	}
	m.cuts.Started = m.now + last
}

// save has a device fill its next buffer, if one is free.
func (m *migration) save(d *device) {
	if d.saving || d.made == d.planned {
		return
	}
	end := d.planned
	if d.Buffer > 0 {
		end = min(end, (d.made/d.Buffer+1)*d.Buffer)
		if end > (d.read/d.Buffer+d.Buffers)*d.Buffer {
			return
		}
	}
	d.saving = true
	m.after(timeFor(d.Save, end-d.made), func() {
		d.made, d.saving = end, false
		m.save(d)
		d.reader.wake()
	})
}

// send carries n bytes to the destination.
func (m *migration) send(n int64, arrived func()) {
	m.free = max(m.free, m.now) + timeFor(m.link.Rate, n)
	m.after(m.free+m.link.RTT/2-m.now, arrived)
}

// reader is a thread of the source. It reads its devices to their ends, one
// after another.
type reader struct {
	m       *migration
	devices []*device
	to      func(*device) int64
	flight  int64
}

// wake reads the available bytes.
func (r *reader) wake() {
	for len(r.devices) > 0 {
		d := r.devices[0]
		left := r.to(d) - d.read
		if left == 0 {
			r.devices = r.devices[1:]
			r.drained(d)
			continue
		}
		n := min(chunk, left, d.made-d.read)
		if flight := r.m.strategy.Flight; flight > 0 {
			n = min(n, flight-r.flight)
		}
		if n == 0 {
			return
		}
		r.read(d, n)
	}
}

func (r *reader) read(d *device, n int64) {
	d.read += n
	r.flight += n
	r.m.save(d)
	r.m.cuts.Saved = r.m.now
	r.m.send(n, func() {
		d.writer.push(d, r, n)
		if r.m.strategy.Unbound {
			r.credit(n)
		}
	})
}

// drained is a device that has no more to be read for now. In PRE_COPY, the question how
// much that was makes the device save its changes since.
func (r *reader) drained(d *device) {
	if d.read == d.Initial && d.Initial > 0 {
		d.planned = d.Initial + d.Dirty
		r.m.save(d)
	}
	r.m.advance()
}

// credit has the destination free memory.
func (r *reader) credit(n int64) {
	r.m.after(r.m.link.RTT/2, func() {
		r.flight -= n
		r.wake()
	})
}

// writer is a thread of the destination. It writes what arrives, in order.
type writer struct {
	m     *migration
	queue []piece
	busy  bool
}

type piece struct {
	d    *device
	from *reader
	n    int64
}

func (w *writer) push(d *device, from *reader, n int64) {
	w.queue = append(w.queue, piece{d, from, n})
	w.next()
}

func (w *writer) next() {
	if w.busy || len(w.queue) == 0 {
		return
	}
	p := w.queue[0]
	w.queue, w.busy = w.queue[1:], true
	w.m.began(p.d)
	w.m.after(p.d.write(p.n), func() {
		p.d.written += p.n
		w.busy = false
		if !w.m.strategy.Unbound {
			p.from.credit(p.n)
		}
		w.next()
		w.m.advance()
	})
}

// began records the beginning of a write.
func (m *migration) began(d *device) {
	m.cuts.Wired = m.now
	if m.paused && !m.filled && d.written >= d.Initial {
		m.filled, m.cuts.Filled = true, m.now
	}
}

// write is the time that the writer needs for the next n bytes.
func (d *device) write(n int64) time.Duration {
	to := d.written + n
	loadable := to
	if d.Record > 0 && to < d.Initial+d.Dirty {
		loadable = to / d.Record * d.Record
	}
	took := timeFor(d.Load, loadable-d.loaded)
	d.loaded = loadable
	if first := max(d.Initial, 1); d.written < first && to >= first {
		took += d.Alloc
	}
	return took
}
