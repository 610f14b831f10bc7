package vfio

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stream is one data session of a kernel device. It uses plain read(2) and
// write(2) on the data_fd, which has no other working method. The Go netpoller
// cannot use the data_fd, since epoll refuses it.
type stream struct {
	name, driver string
	infoV2       bool // precopy_info.flags is meaningful
	oneCall      bool // the driver ignores the offset: one call must move the whole state
	fd           descriptor

	final atomic.Bool // a SET has confirmed STOP_COPY: a read that begins now may return io.EOF
	ended atomic.Bool // the session has ended

	// busy is held during each Write and each GET_PRECOPY_INFO, so that the
	// session does not end meanwhile. Reads do not hold it, since the end of
	// the session wakes a blocked Read.
	busy    sync.Mutex
	resumes bool // the session is written

	offset int64 // bytes moved so far
	broken error // the first fatal error, which all later calls return
}

func newStream(d *device, fd int, to State) *stream {
	s := &stream{
		name:    d.name,
		driver:  d.info.Driver,
		infoV2:  d.features.PreCopyInfoV2,
		oneCall: d.info.Driver == "hisi_acc" && kernelBefore(d.info.Kernel, 6, 2),
		fd:      descriptor{kernel: d.fd.kernel, fd: fd},
		resumes: to == Resuming,
	}
	s.final.Store(to == StopCopy)
	return s
}

// markFinal records that the device has reached STOP_COPY. The receiver may be
// nil here and in markEnded, blockCalls and blockWrites.
func (s *stream) markFinal() {
	if s != nil {
		s.final.Store(true)
	}
}

// markEnded records the end of the session, so that no later call reaches the
// driver.
func (s *stream) markEnded() {
	if s != nil {
		s.ended.Store(true)
	}
}

// blockCalls waits for the Write or Pending in progress and blocks others until
// unblock. A SET needs it: when a SET fails, mlx5 may have freed parts of its
// session, and no GET_PRECOPY_INFO may touch them. The kernel would make these
// calls wait too, since both take the device's state lock.
func (s *stream) blockCalls() (unblock func()) {
	if s == nil {
		return func() {}
	}
	s.busy.Lock()
	return s.busy.Unlock
}

// blockWrites is blockCalls for calls that end a session which is written: a
// later write would make virtio read freed memory. It does not wait for a
// Pending of a saving session.
func (s *stream) blockWrites() (unblock func()) {
	if s == nil || !s.resumes {
		return func() {}
	}
	return s.blockCalls()
}

// acquireFD returns the fd, which stays open until s.fd.release.
func (s *stream) acquireFD() (int, error) {
	if s.ended.Load() {
		return -1, ErrSessionLost
	}
	return s.fd.acquire()
}

// Read returns the bytes that the device has now. It may block its thread for
// seconds inside the driver. A transition out of the saving states wakes it, or
// the end of the process. Close does not.
//
// p should be page-aligned, resident and large: the driver loses bytes that it
// cannot copy out (EFAULT), and drivers such as mlx5 are idle between reads.
// The first Read of a session should offer 4 KiB or more, since hisi_acc before
// Linux 6.2 returns its state in one call only.
func (s *stream) Read(p []byte) (int, error) {
	return s.moveOut("read", len(p), func(fd, n int) (int, error) { return s.fd.read(fd, p[:n]) })
}

// moveOut moves up to n bytes out of the device by the given call.
func (s *stream) moveOut(op string, n int, call func(fd, n int) (int, error)) (int, error) {
	if n == 0 || s.broken != nil {
		return 0, s.broken
	}
	for try := 0; ; try++ {
		// final is loaded before the call: if the device enters STOP_COPY
		// during the call, a 0 is not the end (mlx5).
		final := s.final.Load()
		m, err := s.moveOutOnce(min(n, maxTransfer), call)
		switch {
		case m > 0 && err == nil:
			return s.countBytes(op, m)
		case m == 0 && err == nil && final:
			return 0, io.EOF
		case m == 0 && err == nil, !final && isAny(err, unix.ENOMSG, unix.EAGAIN):
			return 0, ErrDrained
		case !s.shouldRetry(err, try):
			return 0, s.fail(op, err)
		}
	}
}

func (s *stream) moveOutOnce(n int, call func(fd, n int) (int, error)) (int, error) {
	fd, err := s.acquireFD()
	if err != nil {
		return 0, err
	}
	defer s.fd.release()
	return call(fd, n)
}

// shouldRetry reports whether a failed read may be repeated. It first waits as
// long as the errno requires.
func (s *stream) shouldRetry(err error, try int) bool {
	switch {
	case isAny(err, unix.EAGAIN): // another owner of the fd made it non-blocking
		s.awaitReadable()
		return true
	case isAny(err, unix.ENOMSG): // no driver returns this after STOP_COPY; retry for half a second
		if try >= 9 {
			return false
		}
		time.Sleep(time.Millisecond << try)
		return true
	}
	// An interrupted read has lost bytes (xe), unless the driver waits before
	// it takes any (mlx5).
	return isAny(err, unix.EINTR) && s.driver == "mlx5"
}

// pollInterval bounds one wait for a non-blocking fd.
const pollInterval = time.Second

func (s *stream) awaitReadable() {
	if fd, err := s.acquireFD(); err == nil {
		defer s.fd.release()
		s.fd.waitReadable(fd, pollInterval)
	}
}

// countBytes counts n bytes. It refuses a second piece from a driver that
// starts each call at the start of the state.
func (s *stream) countBytes(op string, n int) (int, error) {
	if s.oneCall && s.offset > 0 {
		return 0, s.fail(op, errInPieces)
	}
	s.offset += int64(n)
	return n, nil
}

var errInPieces = errors.New("hisi_acc moves its state in a single call before Linux 6.2")

// Write writes all of p to the device. It may block for seconds inside the
// driver, which loads the state meanwhile. The first error is final: the
// driver may have consumed bytes that it refused. Concurrent calls take turns,
// since two writers race in some drivers (hisi_acc, QAT).
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
	fd, err := s.acquireFD()
	if err != nil {
		return 0, err
	}
	defer s.fd.release()
	return s.fd.write(fd, p)
}

// Pending passes a struct that is zero except for its size, since drivers do
// not clear the flags. It waits for a SET in progress.
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

// Close closes the fd when no call uses it any more. It neither ends the
// session nor wakes a blocked Read: a transition out of the state does both.
func (s *stream) Close() error {
	s.fd.closeWhenUnused()
	return nil
}

// fail makes err the final error of this session. It does not if the driver
// lacks the call: then no byte has moved.
func (s *stream) fail(op string, err error) error {
	e := s.opError(op, err)
	e.Offset = s.offset
	if e.Kind != errors.ErrUnsupported {
		s.broken = e
	}
	return e
}

// opError names the operation and adds the meaning of an errno.
func (s *stream) opError(op string, err error) *OpError {
	return &OpError{Op: op, Device: s.name, Offset: -1, Kind: s.errorKind(op, err), Err: err}
}

func (s *stream) errorKind(op string, err error) error {
	switch {
	case op == "write" && s.isRejection(err):
		return ErrRejected
	case isAny(err, unix.ENODEV):
		return ErrSessionLost
	case op == "pending" && isAny(err, unix.EINVAL):
		return ErrNotPreCopy
	case op == "pending" && isAny(err, unix.ENOTTY), op == "splice" && isAny(err, unix.EINVAL):
		return errors.ErrUnsupported
	case (op == "read" || op == "splice") && isAny(err, unix.EINTR, unix.EFAULT): // the driver lost bytes
		return ErrSessionLost
	}
	return nil
}

// rejections are the errnos by which a driver's write rejects the state, as
// opposed to a failure while it loads. The entry "" is for an unknown driver: it
// has the errnos that no driver uses with another meaning.
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

func (s *stream) isRejection(err error) bool {
	errnos, known := rejections[s.driver]
	if !known {
		errnos = rejections[""]
	}
	return isAny(err, errnos...)
}

// Splicer is a Stream that may be able to move bytes into a pipe without
// copying them through user space. No VFIO driver can as of Linux 7.2, so the
// first SpliceTo is a probe: after errors.ErrUnsupported the stream is
// unchanged, and Read continues.
type Splicer interface {
	// SpliceTo moves up to n bytes into the write end of a pipe, which must be
	// in blocking mode. Its other results are those of Read.
	SpliceTo(pipe, n int) (int, error)
}

func (s *stream) SpliceTo(pipe, n int) (int, error) {
	return s.moveOut("splice", n, func(fd, n int) (int, error) { return s.fd.splice(pipe, fd, n) })
}

// Splice moves up to n bytes from one fd to another by splice(2). One of the two
// must be a pipe. A result of 0 is the end of src. Splice fails with
// errors.ErrUnsupported if this pair of files cannot be spliced; no byte has
// moved then.
func Splice(dst, src, n int) (int, error) {
	m, err := host{}.splice(dst, src, min(n, maxTransfer))
	m = max(m, 0) // the kernel returns -1 with an error
	if isAny(err, unix.EINVAL) {
		return 0, &OpError{Op: "splice", Device: "fd", Offset: -1, Kind: errors.ErrUnsupported, Err: err}
	}
	return m, err
}
