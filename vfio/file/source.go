package file

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/migpipe/migpipe/vfio"
	"golang.org/x/sys/unix"
)

// Source is a device whose state is what a file holds. It has RESUMING like
// every device, and rejects what is written there.
type Source struct {
	*device
	end *sourceEnd
}

// ParseSource reads the part of a device URL behind "file:" at the source: a
// path, which no parameter follows.
func ParseSource(s string) (path string, err error) {
	path, parameters := cutParameters(s)
	if parameters != "" {
		return "", fmt.Errorf("file:%s: a source has no parameters", s)
	}
	return path, nil
}

// NewSource opens a file to be read as a device's state. Opening a named pipe
// waits for its writer.
func NewSource(path string) (*Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, opError(path, err)
	}
	return newSource(f)
}

// FromFD makes a source of an fd, which it owns from then on. A regular file is
// read from the position that it has now; anything else is put into
// non-blocking mode. The name is for errors.
func FromFD(fd int, name string) (*Source, error) {
	f, err := newFile(fd, name, unix.O_RDONLY)
	if err != nil {
		return nil, opError(name, err)
	}
	return newSource(f)
}

// newFile makes a file that a deadline can wake, of an fd that is open in the
// given mode or for both.
func newFile(fd int, name string, mode int) (*os.File, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	if have := flags & unix.O_ACCMODE; have != unix.O_RDWR && have != mode {
		return nil, wrongMode[mode]
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

var wrongMode = map[int]error{
	unix.O_RDONLY: fmt.Errorf("%w: it is not open for reading", unix.EBADF),
	unix.O_WRONLY: fmt.Errorf("%w: it is not open for writing", unix.EBADF),
}

func newSource(f *os.File) (*Source, error) {
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = unix.EISDIR
	}
	e := &sourceEnd{f: f}
	if err == nil && st.Mode().IsRegular() {
		e.regular = true
		e.start, err = f.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		f.Close()
		return nil, opError(f.Name(), err)
	}
	return &Source{newDevice(f.Name(), vfio.Features{DataSize: e.regular}, e), e}, nil
}

func opError(name string, err error) error {
	return &vfio.OpError{Op: "open", Device: "file:" + name, Offset: -1, Err: cause(err)}
}

// StopCopySize implements [vfio.Device]: what is left to be read of a regular
// file.
func (s *Source) StopCopySize() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, s.fail("get size", os.ErrClosed)
	case !s.end.regular:
		return 0, s.fail("get size", errors.ErrUnsupported)
	}
	n, err := s.end.left(s.sess)
	if err != nil {
		return 0, s.fail("get size", err)
	}
	return n, nil
}

// sourceEnd is the file that is read.
type sourceEnd struct {
	f       *os.File
	regular bool
	start   int64 // where the state begins in a regular file
	last    *session
}

var errOnlyRead = fmt.Errorf("%w: a source is only read", vfio.ErrRejected)

func (e *sourceEnd) name() string { return "file:" + e.f.Name() }

// left is the number of bytes that STOP_COPY would still give.
func (e *sourceEnd) left(sess *session) (uint64, error) {
	st, err := e.f.Stat()
	if err != nil {
		return 0, err
	}
	at := e.start
	if sess != nil {
		at += sess.offset.Load()
	}
	return uint64(max(0, st.Size()-at)), nil
}

func (e *sourceEnd) arc(_, to vfio.State) (*session, error) {
	switch to {
	case vfio.Resuming:
		return deadSession(e.name(), e.f, errOnlyRead), nil
	case vfio.StopCopy:
		if err := e.rewind(); err != nil {
			return nil, err
		}
		e.last = newSession(e.name(), e.f, false)
		return e.last, nil
	}
	return nil, nil
}

// rewind goes back to the first byte, which every session begins with.
func (e *sourceEnd) rewind() error {
	if e.regular {
		_, err := e.f.Seek(e.start, io.SeekStart)
		return err
	}
	if e.last != nil && e.last.offset.Load() > 0 {
		return fmt.Errorf("%w: the first %d bytes were read, and no regular file gives them again", unix.ESPIPE, e.last.offset.Load())
	}
	return nil
}

func (e *sourceEnd) drop() error  { return nil }
func (e *sourceEnd) close() error { return e.f.Close() }
