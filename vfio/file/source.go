package file

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
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
	e := &sourceEnd{f: f}
	if err := onFD(f, e.inspect); err != nil {
		f.Close()
		return nil, opError(path, err)
	}
	return newSource(e), nil
}

// FromFD makes a source of an fd, which it owns from then on and closes with
// itself. An fd that it refuses stays the caller's, as it was. A regular file is
// read from the position that it has now; anything else is put into
// non-blocking mode. The name is for errors.
func FromFD(fd int, name string) (*Source, error) {
	e := &sourceEnd{}
	err := checkMode(fd, unix.O_RDONLY)
	if err == nil {
		err = e.inspect(fd)
	}
	if err == nil {
		e.f, err = takeOver(fd, name)
	}
	if err != nil {
		return nil, opError(name, err)
	}
	return newSource(e), nil
}

// checkMode refuses an fd that is open in another mode.
func checkMode(fd, mode int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if have := flags & unix.O_ACCMODE; have != unix.O_RDWR && have != mode {
		return wrongMode[mode]
	}
	return nil
}

// takeOver makes a file that a deadline can wake of an fd. It comes last, since
// an fd that is refused must be left as it was: others may share it.
func takeOver(fd int, name string) (*os.File, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG { // those know no waiting
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

var wrongMode = map[int]error{
	unix.O_RDONLY: fmt.Errorf("%w: it is not open for reading", unix.EBADF),
	unix.O_WRONLY: fmt.Errorf("%w: it is not open for writing", unix.EBADF),
}

func newSource(e *sourceEnd) *Source {
	return &Source{newDevice(e.f.Name(), vfio.Features{DataSize: e.regular}, e), e}
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

// inspect finds out what is to be read, and changes nothing.
func (e *sourceEnd) inspect(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return unix.EISDIR
	case unix.S_IFREG:
		e.regular = true
		start, err := unix.Seek(fd, 0, io.SeekCurrent)
		e.start = start
		return err
	}
	return nil
}

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
		if e.regular {
			e.last.holes = &holes{start: e.start}
		}
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
