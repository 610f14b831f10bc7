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

// session is a data session. Its handle can be closed; the session goes on
// until the device leaves the state.
type session struct {
	d      *Device
	save   *saver  // either of the two
	load   *loader //
	timer  *time.Timer
	hung   bool      // a fault blocks it
	busy   time.Time // when the device has loaded what it can of that was written
	begun  int64     // bytes that it has loaded then
	ready  bool      // it has allocated what it needs
	err    error     // the session is dead
	closed bool
}

// alive says why a call on the stream fails at once.
func (s *session) alive() error {
	if s.closed {
		return os.ErrClosed
	}
	return s.err
}

// Read implements [vfio.Stream].
func (s *session) Read(p []byte) (int, error) {
	n, err := s.readAll(p)
	if err == nil || err == io.EOF || err == vfio.ErrDrained {
		return n, err // as they are: these are no failures, and come often
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
		case n == len(p) || n > 0 && !d.p.fills:
			return n, nil
		}
		if wait != 0 {
			s.wait(wait)
		}
	}
}

// forever is a wait that only a change of the session ends.
const forever = time.Duration(-1)

// readNow reads what is there, and says how long it takes until more is.
func (s *session) readNow(p []byte) (n int, wait time.Duration, err error) {
	if err := s.alive(); err != nil || len(p) == 0 {
		return 0, 0, err
	}
	if s.save == nil {
		return 0, 0, syscall.EBADF
	}
	p, wait, err = s.fault(p, saveFaults, s.save.pos)
	if err != nil || wait != 0 {
		return 0, wait, err
	}
	now := time.Now()
	s.d.im.run(now, s.d.guestRuns())
	n = s.save.read(p, now)
	if s.save.pos < s.save.pace.ready {
		return n, 0, nil
	}
	return n, s.save.pace.wait(now, s.save.planned), s.nothing(n)
}

// nothing is the answer to a Read that finds no byte after n: the end, or
// nothing for now, or nil for a Read that has to wait for more.
func (s *session) nothing(n int) error {
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

// wait sleeps, or until something about the device changes. The device's lock
// is let go of meanwhile.
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

// fault cuts p where the next fault strikes, or makes the fault strike. A wait
// is a hang.
func (s *session) fault(p []byte, kinds []FaultKind, pos int64) (cut []byte, wait time.Duration, err error) {
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
		err = d.breakDown()
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
	if err := s.alive(); err != nil || len(p) == 0 {
		return 0, 0, err
	}
	if s.load == nil {
		return 0, 0, syscall.EBADF
	}
	p, wait, err = s.fault(p, loadFaults, s.load.pos)
	if err != nil || wait != 0 {
		return 0, wait, err
	}
	if n, s.err = s.load.write(p); s.err != nil {
		return n, 0, s.err
	}
	return n, 0, s.loading()
}

// loadSlack is how far a Write may run ahead of the device, so that small ones
// do not sleep one by one.
const loadSlack = time.Millisecond

// loading waits for a device that loads inside write().
func (s *session) loading() error {
	d, now := s.d, time.Now()
	work := s.allocating() + s.loadingOf(s.loadable())
	if work == 0 {
		return nil
	}
	if s.busy.Before(now) {
		s.busy = now
	}
	s.busy = s.busy.Add(work)
	if s.busy.Sub(now) < loadSlack {
		return nil
	}
	if d.p.loads == inLocked {
		s.lockedLoad()
	}
	for t := time.Until(s.busy); t > 0 && s.err == nil; t = time.Until(s.busy) {
		s.wait(t)
	}
	return s.err
}

// allocating is the time that allocations take, once, when the initial bytes are
// complete.
func (s *session) allocating() time.Duration {
	if s.ready || s.d.opts.Alloc == 0 || !s.load.initialComplete() {
		return 0
	}
	s.ready = true
	return s.d.opts.Alloc
}

// loadable is how far the device can load: whole records, counted from the
// stream's start, and the end.
func (s *session) loadable() int64 {
	if r := s.d.opts.Record; r > 0 && !s.load.ended {
		return s.load.pos / r * r
	}
	return s.load.pos
}

// loadingOf is the time that it takes to load up to there.
func (s *session) loadingOf(to int64) time.Duration {
	n := to - s.begun
	s.begun = to
	if s.d.p.loads == atStop {
		return 0
	}
	return timeFor(s.d.opts.LoadRate, n)
}

// lockedLoad is a LOAD under the driver's state lock: every ioctl waits for it,
// a reset too.
func (s *session) lockedLoad() {
	d := s.d
	d.mu.Unlock()
	d.ioctl <- struct{}{}
	d.mu.Lock()
	if s.err == nil {
		d.sleep(time.Until(s.busy))
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
	case s.alive() != nil:
		return vfio.Pending{}, s.alive()
	case s.save == nil || !d.p.features.PreCopy:
		return vfio.Pending{}, errors.ErrUnsupported
	case s.save.final:
		return vfio.Pending{}, fmt.Errorf("%w: %w", vfio.ErrNotPreCopy, syscall.EINVAL)
	}
	now := time.Now()
	d.im.run(now, d.guestRuns())
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

// offset is the stream's position.
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
