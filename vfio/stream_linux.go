package vfio

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stream is one data session of a kernel device: plain read(2) and write(2) on
// the data_fd, which has no other working method and which the Go netpoller
// cannot take (epoll refuses it).
type stream struct {
	name, driver string
	infoV2       bool // precopy_info.flags means something
	oneCall      bool // the driver ignores the offset: everything must move in one call
	fd           descriptor

	final atomic.Bool // STOP_COPY was confirmed: a read that begins now may see the end
	ended atomic.Bool // the session is known to be dead

	// busy is held during each Write and each GET_PRECOPY_INFO, so that nothing
	// ends the session under them. Reads do not use it: a blocked one is woken
	// by ending its session.
	busy    sync.Mutex
	resumes bool

	offset int64 // bytes moved so far
	broken error // the first fatal error: nothing is read or written after it
}

func newStream(d *device, fd int, to State) *stream {
	s := &stream{
		name:    d.name,
		driver:  d.info.Driver,
		infoV2:  d.features.PreCopyInfoV2,
		oneCall: d.info.Driver == "hisi_acc" && before(d.info.Kernel, 6, 2),
		fd:      descriptor{kernel: d.fd.kernel, fd: fd},
		resumes: to == Resuming,
	}
	s.final.Store(to == StopCopy)
	return s
}

// finish marks the session as having reached STOP_COPY. Like end, join and
// joinWriter it is fine on no session at all.
func (s *stream) finish() {
	if s != nil {
		s.final.Store(true)
	}
}

// end marks the session as dead, so that no later call reaches the driver.
func (s *stream) end() {
	if s != nil {
		s.ended.Store(true)
	}
}

// join waits for a Write or Pending under way and keeps others out until the
// returned function is called. It is for the time of a SET, which leaves mlx5
// with a session to whose remains no GET_PRECOPY_INFO may come when it fails.
// The kernel would let them wait as well: both take the device's state lock.
func (s *stream) join() (leave func()) {
	if s == nil {
		return func() {}
	}
	s.busy.Lock()
	return s.busy.Unlock
}

// joinWriter is join for what ends a session that is written: virtio reads
// freed memory in a write that comes after. It does not wait for a Pending.
func (s *stream) joinWriter() (leave func()) {
	if s == nil || !s.resumes {
		return func() {}
	}
	return s.join()
}

// enter gives the fd until s.fd.release.
func (s *stream) enter() (int, error) {
	if s.ended.Load() {
		return -1, ErrSessionLost
	}
	return s.fd.acquire()
}

// Read gives what the device has now. It may block for seconds inside the
// driver with the goroutine's thread; only leaving the saving states (or the
// death of the process) wakes it, Close does not.
//
// p should be page-aligned, resident and big: the driver loses the bytes that
// it cannot copy out (EFAULT), and drivers such as mlx5 stand idle between
// reads. The first Read of a session should offer 4 KiB or more, since hisi_acc
// before Linux 6.2 gives its state in one call only.
func (s *stream) Read(p []byte) (int, error) {
	return s.pull("read", len(p), func(fd, n int) (int, error) { return s.fd.read(fd, p[:n]) })
}

// pull moves up to n bytes out of the device by the given call.
func (s *stream) pull(op string, n int, call func(fd, n int) (int, error)) (int, error) {
	if n == 0 || s.broken != nil {
		return 0, s.broken
	}
	for try := 0; ; try++ {
		// Loaded before the call: a 0 that a call returns across the switch to
		// STOP_COPY is not the end (mlx5).
		final := s.final.Load()
		m, err := s.pullOnce(min(n, maxTransfer), call)
		switch {
		case m > 0 && err == nil:
			return s.moved(op, m)
		case m == 0 && err == nil && final:
			return 0, io.EOF
		case m == 0 && err == nil, !final && isAny(err, unix.ENOMSG, unix.EAGAIN):
			return 0, ErrDrained
		case !s.again(err, try):
			return 0, s.fail(op, err)
		}
	}
}

func (s *stream) pullOnce(n int, call func(fd, n int) (int, error)) (int, error) {
	fd, err := s.enter()
	if err != nil {
		return 0, err
	}
	defer s.fd.release()
	return call(fd, n)
}

// again reports whether a read that failed is worth repeating, having waited
// as long as the errno calls for.
func (s *stream) again(err error, try int) bool {
	switch {
	case isAny(err, unix.EAGAIN): // somebody made the fd non-blocking
		s.wait()
		return true
	case isAny(err, unix.ENOMSG): // no driver says so after STOP_COPY; be patient for half a second
		if try >= 9 {
			return false
		}
		time.Sleep(time.Millisecond << try)
		return true
	}
	// An interrupted read has lost bytes (xe), except where the driver waits
	// before it takes any.
	return isAny(err, unix.EINTR) && s.driver == "mlx5"
}

// pollInterval bounds one wait for a non-blocking fd.
const pollInterval = time.Second

func (s *stream) wait() {
	if fd, err := s.enter(); err == nil {
		defer s.fd.release()
		s.fd.waitReadable(fd, pollInterval)
	}
}

// moved counts n bytes, and refuses a second piece where the driver would have
// given or taken it from the start of the state again.
func (s *stream) moved(op string, n int) (int, error) {
	if s.oneCall && s.offset > 0 {
		return 0, s.fail(op, errInPieces)
	}
	s.offset += int64(n)
	return n, nil
}

var errInPieces = errors.New("hisi_acc moves its state in a single call before Linux 6.2")

// Write hands all of p to the device. It may block for seconds inside the
// driver, which loads the state meanwhile. The first error is final: the
// driver may have consumed what it refused. Two callers take turns, since two
// writers race in some drivers (hisi_acc, QAT).
func (s *stream) Write(p []byte) (int, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	if s.broken != nil {
		return 0, s.broken
	}
	done := 0
	for done < len(p) {
		if s.oneCall && s.offset > 0 {
			return done, s.fail("write", errInPieces)
		}
		n, err := s.writeOnce(p[done:][:min(len(p)-done, maxTransfer)])
		if err == nil && n <= 0 {
			err = ErrShortWrite
		}
		if err != nil {
			return done, s.fail("write", err)
		}
		done += n
		s.offset += int64(n)
	}
	return done, nil
}

func (s *stream) writeOnce(p []byte) (int, error) {
	fd, err := s.enter()
	if err != nil {
		return 0, err
	}
	defer s.fd.release()
	return s.fd.write(fd, p)
}

// Pending asks with a struct that is zero but for its size, since drivers leave
// its flags as they find them. It waits for a SET under way.
func (s *stream) Pending() (Pending, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	if s.ended.Load() {
		return Pending{}, s.opError("pending", ErrSessionLost)
	}
	info := precopyInfo{argsz: 24}
	if err := s.fd.call(reqMigGetPrecopyInfo, &info); err != nil {
		return Pending{}, s.opError("pending", err)
	}
	return Pending{
		Initial: info.initial,
		Dirty:   info.dirty,
		Reinit:  s.infoV2 && info.flags&precopyInfoReinit != 0,
	}, nil
}

// Close lets go of the fd once no call uses it any more. It neither ends the
// session nor wakes a blocked Read: leaving the state does both.
func (s *stream) Close() error {
	s.fd.shut()
	return nil
}

// fail makes err the last word on this session, unless the call was one that
// the driver does not have and so moved nothing.
func (s *stream) fail(op string, err error) error {
	e := s.opError(op, err)
	e.Offset = s.offset
	if e.Kind != errors.ErrUnsupported {
		s.broken = e
	}
	return e
}

// opError names the operation and says what an errno means.
func (s *stream) opError(op string, err error) *OpError {
	return &OpError{Op: op, Device: s.name, Offset: -1, Kind: s.kind(op, err), Err: err}
}

func (s *stream) kind(op string, err error) error {
	switch {
	case op == "write" && s.rejects(err):
		return ErrRejected
	case isAny(err, unix.ENODEV):
		return ErrSessionLost
	case op == "pending" && isAny(err, unix.EINVAL):
		return ErrNotPreCopy
	case op == "pending" && isAny(err, unix.ENOTTY), op == "splice" && isAny(err, unix.EINVAL):
		return errors.ErrUnsupported
	case (op == "read" || op == "splice") && isAny(err, unix.EINTR, unix.EFAULT): // bytes were taken and not given
		return ErrSessionLost
	}
	return nil
}

// rejections are the errnos by which a driver's write says that it does not
// want the state, as opposed to having failed on the way. The entry of "" is
// for a driver that is not known: what no driver uses for anything else.
var rejections = map[string][]unix.Errno{
	"mlx5":     {unix.EOPNOTSUPP, unix.EREMOTEIO, unix.EINVAL},
	"virtio":   {unix.EOPNOTSUPP, unix.EINVAL},
	"hisi_acc": {unix.EFAULT, unix.ENOMEM},
	"qat":      {unix.EINVAL, unix.ENOMEM, unix.EOVERFLOW},
	"pds":      {unix.EINVAL},
	"xe":       {unix.ENODEV, unix.EINVAL, unix.EIO},
	"mtty":     {unix.EFAULT, unix.ENOMEM},
	"":         {unix.EFAULT, unix.EOPNOTSUPP, unix.EREMOTEIO, unix.EINVAL, unix.EOVERFLOW},
}

func (s *stream) rejects(err error) bool {
	errnos, known := rejections[s.driver]
	if !known {
		errnos = rejections[""]
	}
	return isAny(err, errnos...)
}

// Splicer is a Stream that may be able to move bytes into a pipe without
// copying them through user space. No VFIO driver can as of Linux 7.2, so the
// first SpliceTo is a probe: errors.ErrUnsupported takes no byte from the
// stream and leaves it as it was, for Read to go on.
type Splicer interface {
	// SpliceTo moves up to n bytes into the write end of a pipe, which must be
	// in blocking mode. Its results are those of Read otherwise.
	SpliceTo(pipe, n int) (int, error)
}

func (s *stream) SpliceTo(pipe, n int) (int, error) {
	return s.pull("splice", n, func(fd, n int) (int, error) { return s.fd.splice(pipe, fd, n) })
}

// Splice moves up to n bytes from one fd to another, one of which is a pipe,
// with splice(2): 0 is the end of src. errors.ErrUnsupported means that this
// pair of files cannot be spliced, and that nothing was moved.
func Splice(dst, src, n int) (int, error) {
	m, err := host{}.splice(dst, src, min(n, maxTransfer))
	m = max(m, 0) // the kernel's -1 says no more than the error does
	if isAny(err, unix.EINVAL) {
		return 0, &OpError{Op: "splice", Device: "fd", Offset: -1, Kind: errors.ErrUnsupported, Err: err}
	}
	return m, err
}
