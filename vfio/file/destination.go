package file

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
)

// DestinationOptions are the options of a [Destination]. Nil is the zero value.
type DestinationOptions struct {
	// Overwrite makes the commit replace an existing file, atomically. If the
	// commit fails, it restores the old file; that needs a file system that can
	// exchange two names (RENAME_EXCHANGE). If it cannot, the error says so.
	Overwrite bool
}

// ParseDestination parses the part of a device URL after "file:": a path, and an
// optional "?overwrite=1". A question mark without a parameter is part of the path.
func ParseDestination(s string) (path string, o *DestinationOptions, err error) {
	path, parameters := cutParameters(s)
	values, err := url.ParseQuery(parameters)
	if err != nil {
		return "", nil, fmt.Errorf("file:%s: parameters: %w", s, err)
	}
	o = &DestinationOptions{}
	for name, v := range values {
		if name != "overwrite" || len(v) != 1 || v[0] != "0" && v[0] != "1" {
			return "", nil, fmt.Errorf("file:%s: the only parameter is overwrite, once, with 0 or 1", s)
		}
		o.Overwrite = v[0] == "1"
	}
	return path, o, nil
}

// cutParameters splits "?name=value" off a path.
func cutParameters(s string) (path, parameters string) {
	i := strings.LastIndexByte(s, '?')
	if i < 0 || !strings.Contains(s[i:], "=") {
		return s, ""
	}
	return s[:i], s[i+1:]
}

// Destination is a device that stores the state which it loads in a file. It has
// STOP_COPY like every device, but every read there fails.
type Destination struct {
	*device
	statfs func() (unix.Statfs_t, error)
}

var _ vfio.Storage = (*Destination)(nil)

// Room implements [vfio.Storage]. The place is the number of the file system. Room fails with
// errors.ErrUnsupported for pipes, which have none.
func (s *Destination) Room() (free uint64, place string, err error) {
	if s.statfs == nil {
		return 0, "", errors.ErrUnsupported
	}
	room, err := s.statfs()
	if err != nil {
		return 0, "", opError(s.name, err)
	}
	return room.Bavail * uint64(room.Bsize), fmt.Sprintf("%x", room.Fsid.Val), nil
}

// NewDestination makes a destination for a file that must not exist, unless the options allow
// it. Only the file's owner may read it (mode 0600): a device's state is as
// secret as the guest's memory.
func NewDestination(path string, o *DestinationOptions) (*Destination, error) {
	e := &pathFile{path: path, overwrite: o != nil && o.Overwrite, create: createHidden, syncDir: (*os.File).Sync}
	if err := e.checkPath(); err != nil {
		return nil, opError(path, err)
	}
	return &Destination{device: newDevice(path, vfio.Features{}, e), statfs: func() (room unix.Statfs_t, err error) {
		return room, unix.Statfs(filepath.Dir(path), &room)
	}}, nil
}

// ToFD makes a destination of an fd. The destination owns the fd and closes it. It puts the fd
// into non-blocking mode unless it is a regular file. If ToFD fails, the fd is
// unchanged and stays the caller's. The destination writes bytes at once, and does not
// remove the bytes of a failed session.
func ToFD(fd int, name string) (*Destination, error) {
	if err := checkMode(fd, unix.O_WRONLY); err != nil {
		return nil, opError(name, err)
	}
	f, err := takeOver(fd, name)
	if err != nil {
		return nil, opError(name, err)
	}
	s := &Destination{device: newDevice(name, vfio.Features{}, &fdFile{f: f, sync: fdatasync})}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		s.statfs = func() (room unix.Statfs_t, err error) { return room, unix.Fstatfs(int(f.Fd()), &room) }
	}
	return s, nil
}

// StopCopySize implements [vfio.Device]. It fails, since a destination cannot be saved.
func (s *Destination) StopCopySize() (uint64, error) {
	return 0, s.fail("get size", errors.ErrUnsupported)
}

var errOnlyWritten = fmt.Errorf("%w: a destination cannot be read", unix.EBADF)

// pathFile is the backend of a Destination that was opened by path: a file that gets its
// name at the commit.
type pathFile struct {
	path      string
	overwrite bool
	create    func(dir, base string) (*hiddenFile, error)
	syncDir   func(dir *os.File) error

	next     *hiddenFile // the file of the next session, nil for a new file
	file     *hiddenFile // non-nil from RESUMING to the commit
	sess     *session
	prepared bool // the data is durable, only the name is missing
}

func (e *pathFile) dir() string { return filepath.Dir(e.path) }

// checkPath refuses a path to which the commit could not publish. It accepts a file with a
// record; checkVacant checks it again before the next session.
func (e *pathFile) checkPath() error {
	st, err := os.Lstat(e.path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !strings.HasSuffix(e.path, "/") && e.path != "":
	case err != nil:
		return err
	case st.IsDir():
		return unix.EISDIR
	case !e.overwrite && !st.Mode().IsRegular(), !e.overwrite && !hasRecord(e.path):
		return errTaken
	}
	return e.tryCreate()
}

var errTaken = fmt.Errorf("%w (overwrite=1 replaces it)", unix.EEXIST)

// checkVacant refuses a session whose commit would find an existing file: a session that was
// committed before a crash, and that a caller may still resume.
func (e *pathFile) checkVacant() error {
	if _, err := os.Lstat(e.path); err == nil && !e.overwrite {
		return errTaken
	}
	return nil
}

// tryCreate creates a hidden file and discards it: only that shows whether the
// directory, its file system and its permissions allow it.
func (e *pathFile) tryCreate() error {
	h, err := e.create(e.dir(), filepath.Base(e.path))
	if err != nil {
		return fmt.Errorf("cannot create a file in %s: %w", e.dir(), stripPath(err))
	}
	return h.discard()
}

func (e *pathFile) apply(from, to vfio.State) (*session, error) {
	switch {
	case to == vfio.StopCopy:
		return deadSession("file:"+e.path, nil, errOnlyWritten), nil
	case to == vfio.Resuming:
		return e.beginSession()
	case from == vfio.Resuming:
		return nil, e.makeDurable()
	case to == vfio.Running && e.prepared:
		return nil, e.commit()
	}
	return nil, nil
}

func (e *pathFile) beginSession() (*session, error) {
	if err := e.checkVacant(); err != nil {
		return nil, err
	}
	if err := e.discard(); err != nil {
		return nil, err
	}
	h, err := e.openFile()
	if err != nil {
		return nil, err
	}
	e.file, e.sess = h, newSession("file:"+e.path, h.f, true)
	e.sess.sparse = true
	return e.sess, nil
}

// openFile returns the file of a session. That of a persistent session is open already.
func (e *pathFile) openFile() (*hiddenFile, error) {
	if h := e.next; h != nil {
		e.next = nil
		return h, nil
	}
	return e.create(e.dir(), filepath.Base(e.path))
}

// makeDurable executes RESUMING -> STOP. Afterwards only the name is missing.
func (e *pathFile) makeDurable() error {
	// The file may end with a hole.
	err := e.file.f.Truncate(e.sess.offset.Load())
	if err == nil {
		err = fdatasync(e.file.f)
	}
	if err != nil {
		// Linux reports lost data once: a second fdatasync would succeed.
		e.sess.broken = err
		return err
	}
	e.prepared = true
	return nil
}

// commit executes STOP -> RUNNING. If it fails, the device stays in STOP and the
// caller may retry. It may not if the sync of the directory failed: Linux reports
// lost data once, so a second fsync would succeed.
func (e *pathFile) commit() error {
	dir, err := os.Open(e.dir())
	if err != nil {
		return err
	}
	defer dir.Close()
	undo, err := e.file.publish(e.path, e.overwrite)
	if err != nil {
		return err
	}
	if err := ignoreUnsyncable(e.syncDir(dir)); err != nil {
		return e.undoCommit(undo, fmt.Errorf("sync %s: %w; %w", e.dir(), stripPath(err), errGone))
	}
	_ = e.file.discard() // the data is durable; if this fails, the replaced file stays hidden
	e.file, e.prepared = nil, false
	return nil
}

// undoCommit removes the file of a failed commit, and restores the file that it
// replaced. If it cannot, the error names the files.
func (e *pathFile) undoCommit(undo func() error, why error) error {
	if err := undo(); err != nil {
		why = fmt.Errorf("%w; cannot restore %s: %w", why, e.path, err)
	}
	_ = e.file.discard()
	e.file = nil
	return why
}

func (e *pathFile) discard() error {
	h := e.file
	e.file, e.prepared = nil, false
	if h == nil {
		return nil
	}
	return h.discard()
}

// close does not discard a complete state: this process may not know the outcome of the session.
func (e *pathFile) close() error { return e.closeFile() }

// closeFile closes the file. A complete one stays for a later process. Another is discarded.
func (e *pathFile) closeFile() error {
	if h := e.file; h != nil && h.complete {
		e.file, e.prepared = nil, false
		return h.f.Close()
	}
	return e.discard()
}

// fdFile is the backend of a Destination of an fd, which the caller has opened.
type fdFile struct {
	f    *os.File
	sync func(*os.File) error
	lost error // the error of sync: Linux reports it once, and a second sync would succeed
	sess *session
	from int64 // position of the first byte of a sparse session
}

func (e *fdFile) apply(from, to vfio.State) (*session, error) {
	switch {
	case e.lost != nil:
		return nil, e.lost
	case to == vfio.StopCopy:
		return deadSession("file:"+e.f.Name(), e.f, errOnlyWritten), nil
	case to == vfio.Resuming:
		e.sess = newSession("file:"+e.f.Name(), e.f, true)
		e.from, e.sess.sparse = vacantFrom(e.f)
		return e.sess, nil
	case from == vfio.Resuming:
		e.lost = e.makeDurable()
	}
	return nil, e.lost
}

// vacantFrom returns the position of a regular file, and whether no byte is stored from there on,
// so that a seek can replace a write of zeros. With O_APPEND each write goes to the end of the
// file, regardless of the position (open(2)).
func vacantFrom(f *os.File) (at int64, vacant bool) {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return 0, false
	}
	flags := 0
	err = onFD(f, func(fd int) (err error) {
		flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		return err
	})
	if err == nil {
		at, err = f.Seek(0, io.SeekCurrent)
	}
	return at, err == nil && flags&unix.O_APPEND == 0 && at >= st.Size()
}

// makeDurable makes the state durable. It may end with a hole.
func (e *fdFile) makeDurable() error {
	if e.sess.sparse {
		if err := extend(e.f, e.from+e.sess.offset.Load()); err != nil {
			return err
		}
	}
	return ignoreUnsyncable(e.sync(e.f))
}

func (e *fdFile) discard() error { return nil }
func (e *fdFile) close() error   { return e.f.Close() }
