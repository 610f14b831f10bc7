package vfio

import (
	"errors"

	"golang.org/x/sys/unix"
)

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
