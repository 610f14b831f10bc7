package vfio

import (
	"fmt"
	"reflect"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// kernel has the system calls that devices and streams need. Tests use a
// scripted kernel. Errors are of type unix.Errno.
type kernel interface {
	open(path string) (int, error)
	close(fd int)
	ioctl(fd int, req uint32, arg any) (int, error)
	read(fd int, p []byte) (int, error)
	write(fd int, p []byte) (int, error)
	splice(dst, src, n int) (int, error)
	waitReadable(fd int, d time.Duration)
}

// host is the running kernel.
type host struct{}

// maxTransfer is the most that one read or write moves (MAX_RW_COUNT).
const maxTransfer = 0x7ffff000

// ioctlDirection holds the bits that _IO adds to a request number: none on most
// architectures, 0x20000000 on powerpc, mips and sparc. It is derived from
// BLKFLSBUF, 0x1261, an _IO number that x/sys has for each architecture.
const ioctlDirection = unix.BLKFLSBUF &^ 0xffff

// checkIoctlNumbers refuses architectures on which _IO adds direction bits, so that VFIO's
// request numbers differ from the generic ones. No device was ever tested on such a machine.
func checkIoctlNumbers(direction uint32) error {
	if direction != 0 {
		return unix.EOPNOTSUPP // matches errors.ErrUnsupported
	}
	return nil
}

var allSignals = func() (set unix.Sigset_t) {
	for i := range set.Val {
		set.Val[i]--
	}
	return set
}()

// blockSignals locks the goroutine to its thread and blocks every signal there,
// including those by which the Go runtime preempts and profiles. A signal may
// cost the stream bytes (xe) or the whole session (mlx5). A blocked signal
// stays pending. The caller passes the result to restoreSignals.
func blockSignals() unix.Sigset_t {
	runtime.LockOSThread()
	var old unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &allSignals, &old); err != nil {
		panic(fmt.Sprintf("vfio: blocking signals: %v", err)) // only EINVAL and EFAULT exist
	}
	return old
}

func restoreSignals(old unix.Sigset_t) {
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		panic(fmt.Sprintf("vfio: restoring signals: %v", err))
	}
	runtime.UnlockOSThread()
}

func (host) open(path string) (int, error) {
	return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
}

func (host) close(fd int) { unix.Close(fd) }

// ioctl passes a pointer by its address, an int by value, and nil as zero.
func (host) ioctl(fd int, req uint32, arg any) (int, error) {
	defer restoreSignals(blockSignals())
	if err := checkIoctlNumbers(ioctlDirection); err != nil {
		return -1, err
	}
	var n uintptr
	var errno unix.Errno
	request := uintptr(req)
	if value, ok := arg.(int); ok || arg == nil {
		n, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(value))
	} else {
		// The conversion must be part of the call: that keeps the memory in
		// place until the call returns (package unsafe, rule 4).
		n, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(reflect.ValueOf(arg).UnsafePointer()))
	}
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func (host) read(fd int, p []byte) (int, error) {
	defer restoreSignals(blockSignals())
	return unix.Read(fd, p)
}

func (host) write(fd int, p []byte) (int, error) {
	defer restoreSignals(blockSignals())
	return unix.Write(fd, p)
}

func (host) splice(dst, src, n int) (int, error) {
	defer restoreSignals(blockSignals())
	m, err := unix.Splice(src, nil, dst, nil, n, 0)
	return int(m), err
}

// waitReadable returns when fd is readable or has an error, and after d at the
// latest. Drivers without a poll method are always readable.
func (host) waitReadable(fd int, d time.Duration) {
	defer restoreSignals(blockSignals())
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(d.Milliseconds()))
}
