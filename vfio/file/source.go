package file

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
)

// Source is a device whose state is the content of a file. It has RESUMING like
// every device, but rejects every write there.
type Source struct {
	*device
	file *sourceFile
}

// ParseSource parses the part of a device URL after "file:" at the source: a
// path without parameters.
func ParseSource(s string) (path string, err error) {
	path, parameters := cutParameters(s)
	if parameters != "" {
		return "", fmt.Errorf("file:%s: a source has no parameters", s)
	}
	return path, nil
}

// NewSource opens a file whose content is a device's state. If the file is a
// named pipe, NewSource waits for a writer.
func NewSource(path string) (*Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, opError(path, err)
	}
	e := &sourceFile{f: f}
	if err := onFD(f, e.inspect); err != nil {
		f.Close()
		return nil, opError(path, err)
	}
	return newSource(e), nil
}

// FromFD makes a source of an fd. The source owns the fd and closes it. It reads
// a regular file from the current position, and puts any other file into
// non-blocking mode. If FromFD fails, the fd is unchanged and stays the
// caller's. The name is for errors.
func FromFD(fd int, name string) (*Source, error) {
	e := &sourceFile{}
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

// takeOver makes a file of an fd, so that a deadline can wake its calls. It is
// the last check, since a refused fd must stay unchanged: other processes may
// share it.
func takeOver(fd int, name string) (*os.File, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG { // regular files never block
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

var wrongMode = map[int]error{
	unix.O_RDONLY: fmt.Errorf("%w: not open for reading", unix.EBADF),
	unix.O_WRONLY: fmt.Errorf("%w: not open for writing", unix.EBADF),
}

func newSource(e *sourceFile) *Source {
	return &Source{newDevice(e.f.Name(), vfio.Features{DataSize: e.regular}, e), e}
}

func opError(name string, err error) error {
	return &vfio.OpError{Op: "open", Device: "file:" + name, Offset: -1, Err: stripPath(err)}
}

// StopCopySize implements [vfio.Device]. It returns the unread bytes of a
// regular file.
func (s *Source) StopCopySize() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, s.fail("get size", os.ErrClosed)
	case !s.file.regular:
		return 0, s.fail("get size", errors.ErrUnsupported)
	}
	n, err := s.file.unread(s.sess)
	if err != nil {
		return 0, s.fail("get size", err)
	}
	return n, nil
}

// sourceFile is the backend of a Source.
type sourceFile struct {
	f       *os.File
	regular bool
	start   int64 // position of the state's first byte in a regular file
	last    *session
}

var errOnlyRead = fmt.Errorf("%w: a source cannot be written", vfio.ErrRejected)

// inspect finds the kind and the position of a file. It does not change the fd.
func (e *sourceFile) inspect(fd int) error {
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

func (e *sourceFile) name() string { return "file:" + e.f.Name() }

// unread returns the number of bytes that STOP_COPY would still produce.
func (e *sourceFile) unread(sess *session) (uint64, error) {
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

func (e *sourceFile) apply(_, to vfio.State) (*session, error) {
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

// rewind moves to the first byte, with which every session begins.
func (e *sourceFile) rewind() error {
	if e.regular {
		_, err := e.f.Seek(e.start, io.SeekStart)
		return err
	}
	if e.last != nil && e.last.offset.Load() > 0 {
		return fmt.Errorf("%w: the first %d bytes were read, and only a regular file can be read again", unix.ESPIPE, e.last.offset.Load())
	}
	return nil
}

func (e *sourceFile) discard() error { return nil }
func (e *sourceFile) close() error   { return e.f.Close() }
