package file

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
)

// session is a data session: it reads the file while the device is in
// STOP_COPY, and writes it while the device is in RESUMING.
type session struct {
	name   string
	f      *os.File
	writes bool
	sparse bool // the file was empty: a hole reads as zeros

	busy   sync.Mutex // held while the file is used
	broken error      // the first failed write

	holes *holes // of a regular file that is read, nil elsewhere

	offset atomic.Int64 // bytes moved
	ended  atomic.Bool  // the device has left the state
	closed atomic.Bool  // the owner has closed the stream
}

var (
	_ vfio.Stream     = (*session)(nil)
	_ vfio.ZeroWriter = (*session)(nil)
	_ vfio.HoleReader = (*session)(nil)
	_ vfio.Splicer    = (*session)(nil)
)

// aLongTimeAgo is a deadline that wakes all calls that wait for a pipe or socket.
var aLongTimeAgo = time.Unix(1, 0)

func newSession(name string, f *os.File, writes bool) *session {
	f.SetDeadline(time.Time{}) // fails for regular files, which need no deadline
	return &session{name: name, f: f, writes: writes}
}

// deadSession returns a session whose calls all fail with why. It is for a state
// that the device has only because every device has it.
func deadSession(name string, f *os.File, why error) *session {
	s := newSession(name, f, true)
	s.broken = why
	return s
}

// end ends the session, and returns when no call uses the file any more.
func (s *session) end() {
	if s == nil {
		return
	}
	s.ended.Store(true)
	s.f.SetDeadline(aLongTimeAgo)
	s.busy.Lock()
	defer s.busy.Unlock() // the lock only waits for the calls
}

// withFile calls f with exclusive use of the file. The first failed write is
// final, since a later write would leave a gap. It is not if the file does not
// support the call.
func (s *session) withFile(write bool, f func() (int, error)) (int, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	if err := s.checkAlive(write); err != nil {
		return 0, err
	}
	n, err := f()
	s.offset.Add(int64(n))
	if err != nil && s.ended.Load() {
		err = vfio.ErrSessionLost
	}
	if write && !errors.Is(err, errors.ErrUnsupported) {
		s.broken = err
	}
	return n, err
}

func (s *session) checkAlive(write bool) error {
	switch {
	case s.closed.Load():
		return os.ErrClosed
	case s.ended.Load():
		return vfio.ErrSessionLost
	case s.broken != nil:
		return s.broken
	case s.writes != write:
		return unix.EBADF
	}
	return nil
}

func (s *session) fail(op string, err error) error {
	if errors.Is(err, vfio.ErrSessionLost) {
		return &vfio.OpError{Op: op, Device: s.name, Offset: s.offset.Load(), Kind: vfio.ErrSessionLost}
	}
	return &vfio.OpError{Op: op, Device: s.name, Offset: s.offset.Load(), Err: stripPath(err)}
}

// stripPath removes the path, which OpError names already, from an error of os.
func stripPath(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Read implements [vfio.Stream]. It waits if the file does (a pipe). io.EOF is
// the end of the file at the time of the call.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.withFile(false, func() (int, error) { return s.f.Read(p[:s.holes.bytesBefore(s.offset.Load(), len(p))]) })
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, s.fail("read", err)
}

// SpliceTo implements [vfio.Splicer].
func (s *session) SpliceTo(pipe, n int) (int, error) {
	m, err := s.splice(false, func(fd int) (int, error) {
		return vfio.Splice(pipe, fd, s.holes.bytesBefore(s.offset.Load(), n))
	})
	if err == nil && m == 0 && n > 0 {
		err = io.EOF
	}
	return m, err
}

// SpliceFrom moves up to n bytes from the read end of a pipe in blocking mode
// into the file, without a copy ([vfio.Splice]). A result of 0 is the end of the
// pipe.
func (s *session) SpliceFrom(pipe, n int) (int, error) {
	return s.splice(true, func(fd int) (int, error) { return vfio.Splice(fd, pipe, n) })
}

// splice calls move with the file's fd. After EAGAIN it waits and calls move
// again, since pipes and sockets are in non-blocking mode.
func (s *session) splice(write bool, move func(fd int) (int, error)) (int, error) {
	n, err := s.withFile(write, func() (n int, err error) {
		c, err := s.f.SyscallConn()
		if err != nil {
			return 0, err
		}
		wait := c.Read
		if write {
			wait = c.Write
		}
		werr := wait(func(fd uintptr) (done bool) {
			n, err = move(int(fd))
			return !errors.Is(err, unix.EAGAIN)
		})
		return n, errors.Join(werr, err)
	})
	if err != nil {
		return n, s.fail("splice", err)
	}
	return n, nil
}

// Write implements [vfio.Stream].
func (s *session) Write(p []byte) (int, error) {
	n, err := s.withFile(true, func() (int, error) { return s.f.Write(p) })
	if err != nil {
		return n, s.fail("write", err)
	}
	return n, nil
}

// zeros is written to a file that cannot have holes.
var zeros [64 << 10]byte

// WriteZeros implements [vfio.ZeroWriter]. It leaves a hole if it can.
func (s *session) WriteZeros(n int) error {
	if s.sparse {
		_, err := s.withFile(true, func() (int, error) {
			_, err := s.f.Seek(int64(n), io.SeekCurrent)
			return n, err
		})
		if err != nil {
			return s.fail("write", err)
		}
		return nil
	}
	for n > 0 {
		m, err := s.Write(zeros[:min(n, len(zeros))])
		if err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// Pending implements [vfio.Stream]. It fails, since files have no PRE_COPY.
func (s *session) Pending() (vfio.Pending, error) {
	return vfio.Pending{}, s.fail("get pre-copy info", errors.ErrUnsupported)
}

// Close implements [vfio.Stream]. The file stays open with its device.
func (s *session) Close() error {
	s.closed.Store(true)
	return nil
}
