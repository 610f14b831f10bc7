package sim

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// session is a data session. After its handle is closed, the session continues
// until the device leaves the state.
type session struct {
	d         *Device
	save      *saver  // nil for a session that loads
	load      *loader // nil for a session that saves
	timer     *time.Timer
	hung      bool      // a fault blocks all calls
	busyUntil time.Time // when the device will have loaded the bytes up to begunPos
	begunPos  int64     // position up to which the device has begun to load
	allocated bool      // the time of Options.Alloc has begun
	err       error     // the reason why the session has ended
	closed    bool
}

// checkAlive returns an error if the handle is closed or the session has ended.
func (s *session) checkAlive() error {
	if s.closed {
		return os.ErrClosed
	}
	return s.err
}

// Read implements [vfio.Stream].
func (s *session) Read(p []byte) (int, error) {
	n, err := s.readAll(p)
	if err == nil || err == io.EOF || err == vfio.ErrDrained {
		return n, err // not wrapped: these are frequent, and no failures
	}
	return 0, s.d.fail("read", s.offset(), err)
}

// readAll waits as long as the driver would.
func (s *session) readAll(p []byte) (n int, err error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Reads++
	for {
		m, wait, err := s.readNow(p[n:])
		n += m
		d.stats.BytesRead += int64(m)
		switch {
		case n > 0 && err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		case n == len(p) || n > 0 && !d.p.fillsReads:
			return n, nil
		}
		if wait != 0 {
			s.wait(wait)
		}
	}
}

// forever is a wait that only a wake-up ends.
const forever = time.Duration(-1)

// readNow reads the readable bytes. It returns how long to wait for more.
func (s *session) readNow(p []byte) (n int, wait time.Duration, err error) {
	if err := s.checkAlive(); err != nil || len(p) == 0 {
		return 0, 0, err
	}
	if s.save == nil {
		return 0, 0, syscall.EBADF
	}
	p, wait, err = s.applyFaults(p, saveFaults, s.save.pos)
	if err != nil || wait != 0 {
		return 0, wait, err
	}
	now := time.Now()
	s.d.im.advance(now, s.d.guestRuns())
	n = s.save.read(p, now)
	if s.save.pos < s.save.pace.ready {
		return n, 0, nil
	}
	return n, s.save.pace.timeToNext(now, s.save.planned), s.emptyRead(n)
}

// emptyRead returns the error of a Read that finds no byte after n: io.EOF,
// ErrDrained, or nil for a Read that must wait for more.
func (s *session) emptyRead(n int) error {
	v := s.save
	drained := v.pos == v.planned
	switch {
	case drained && v.final:
		return io.EOF
	case n > 0:
		return nil
	case drained, s.d.p.drainBusy && !v.initial && !v.final:
		s.d.stats.ReadsDrained++
		return vfio.ErrDrained
	}
	return nil
}

// wait sleeps for t, or until the device changes. It releases the device's mutex
// meanwhile.
func (s *session) wait(t time.Duration) {
	wake := s.d.wake
	s.d.mu.Unlock()
	defer s.d.mu.Lock()
	if t == forever {
		<-wake
		return
	}
	if s.timer == nil {
		s.timer = time.NewTimer(t)
	} else {
		s.timer.Reset(t)
	}
	select {
	case <-s.timer.C:
	case <-wake:
		s.timer.Stop()
	}
}

// applyFaults cuts p at the position of the next fault. At that position it
// makes the fault strike. A non-zero wait is a hang.
func (s *session) applyFaults(p []byte, kinds []FaultKind, pos int64) (cut []byte, wait time.Duration, err error) {
	d := s.d
	f := d.faults.next(kinds, pos)
	switch {
	case s.hung:
		return nil, forever, nil
	case f == nil:
		return p, 0, nil
	case f.At > pos:
		return p[:min(int64(len(p)), f.At-pos)], 0, nil
	}
	switch struck := d.faults.strike(f); struck.Kind {
	case FaultHang:
		s.hung = true
		return nil, forever, nil
	case FaultReset:
		err = d.reset()
	case FaultError:
		err = d.enterError()
	case FaultShort:
		s.err = fmt.Errorf("%w: %w", vfio.ErrShortWrite, syscall.EINVAL)
	default:
		s.err = struck.Errno
	}
	return nil, 0, cmp.Or(err, s.err)
}

// Write implements [vfio.Stream].
func (s *session) Write(p []byte) (int, error) {
	n, err := s.writeAll(p)
	if err != nil {
		return n, s.d.fail("write", s.offset(), err)
	}
	return n, nil
}

func (s *session) writeAll(p []byte) (n int, err error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Writes++
	for {
		m, wait, err := s.writeNow(p[n:])
		n += m
		d.stats.BytesWritten += int64(m)
		if err != nil || n == len(p) {
			return n, err
		}
		if wait != 0 {
			s.wait(wait)
		}
	}
}

func (s *session) writeNow(p []byte) (n int, wait time.Duration, err error) {
	if err := s.checkAlive(); err != nil || len(p) == 0 {
		return 0, 0, err
	}
	if s.load == nil {
		return 0, 0, syscall.EBADF
	}
	p, wait, err = s.applyFaults(p, loadFaults, s.load.pos)
	if err != nil || wait != 0 {
		return 0, wait, err
	}
	if n, s.err = s.load.write(p); s.err != nil {
		return n, 0, s.err
	}
	return n, 0, s.awaitLoad()
}

// loadSlack is the time by which a Write may be ahead of the device. It saves
// small writes a sleep each.
const loadSlack = time.Millisecond

// awaitLoad waits for a device that loads inside write().
func (s *session) awaitLoad() error {
	d, now := s.d, time.Now()
	work := s.allocTime() + s.loadTime(s.loadable())
	if work == 0 {
		return nil
	}
	if s.busyUntil.Before(now) {
		s.busyUntil = now
	}
	s.busyUntil = s.busyUntil.Add(work)
	if s.busyUntil.Sub(now) < loadSlack {
		return nil
	}
	if d.p.loads == inLocked {
		s.loadLocked()
	}
	for t := time.Until(s.busyUntil); t > 0 && s.err == nil; t = time.Until(s.busyUntil) {
		s.wait(t)
	}
	return s.err
}

// allocTime returns the time of the allocations, once, when the initial bytes are
// complete.
func (s *session) allocTime() time.Duration {
	if s.allocated || s.d.opts.Alloc == 0 || !s.load.initialComplete() {
		return 0
	}
	s.allocated = true
	return s.d.opts.Alloc
}

// loadable returns the position up to which the device can load: whole records,
// counted from the stream's start, or the end of the stream.
func (s *session) loadable() int64 {
	if r := s.d.opts.Record; r > 0 && !s.load.ended {
		return s.load.pos / r * r
	}
	return s.load.pos
}

// loadTime returns the time that it takes to load up to a position.
func (s *session) loadTime(to int64) time.Duration {
	n := to - s.begunPos
	s.begunPos = to
	if s.d.p.loads == atStop {
		return 0
	}
	return timeFor(s.d.opts.LoadRate, n)
}

// loadLocked waits for a LOAD under the driver's state lock. Every ioctl waits
// for that lock, and so does a reset.
func (s *session) loadLocked() {
	d := s.d
	d.mu.Unlock()
	d.ioctl <- struct{}{}
	d.mu.Lock()
	if s.err == nil {
		d.sleep(time.Until(s.busyUntil))
	}
	<-d.ioctl
}

// Pending implements [vfio.Stream].
func (s *session) Pending() (vfio.Pending, error) {
	p, err := s.pending()
	if err != nil {
		return p, s.d.fail("get pre-copy info", -1, err)
	}
	return p, nil
}

func (s *session) pending() (vfio.Pending, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Pendings++
	switch {
	case s.checkAlive() != nil:
		return vfio.Pending{}, s.checkAlive()
	case s.save == nil || !d.p.features.PreCopy:
		return vfio.Pending{}, errors.ErrUnsupported
	case s.save.final:
		return vfio.Pending{}, fmt.Errorf("%w: %w", vfio.ErrNotPreCopy, syscall.EINVAL)
	}
	now := time.Now()
	d.im.advance(now, d.guestRuns())
	if f := d.faults.next([]FaultKind{FaultReinit}, 0); f != nil && f.At <= s.save.pos && d.p.features.PreCopyInfoV2 {
		d.faults.strike(f)
		return s.save.reinit(now), nil
	}
	before := s.save.planned
	p := s.save.pending(now, d.state == vfio.PreCopyP2P)
	if !d.p.async {
		d.sleep(timeFor(d.opts.SaveRate, s.save.planned-before))
	}
	return p, nil
}

// offset returns the stream's position.
func (s *session) offset() int64 {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.save != nil {
		return s.save.pos
	}
	return s.load.pos
}

// Close implements [vfio.Stream].
func (s *session) Close() error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.closed = true
	return nil
}
