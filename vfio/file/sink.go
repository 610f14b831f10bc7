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

// SinkOptions say what a [Sink] may do. Nil stands for the zero value.
type SinkOptions struct {
	// Overwrite replaces a file of that name, in one step, at the commit. A
	// commit that fails gives the old file back, where the file system can swap
	// two names (RENAME_EXCHANGE); the error says so where it cannot.
	Overwrite bool
}

// ParseSink reads the part of a device URL behind "file:": a path, and maybe
// "?overwrite=1". A question mark that no parameter follows belongs to the path.
func ParseSink(s string) (path string, o *SinkOptions, err error) {
	path, parameters := cutParameters(s)
	values, err := url.ParseQuery(parameters)
	if err != nil {
		return "", nil, fmt.Errorf("file:%s: parameters: %w", s, err)
	}
	o = &SinkOptions{}
	for name, v := range values {
		if name != "overwrite" || len(v) != 1 || v[0] != "0" && v[0] != "1" {
			return "", nil, fmt.Errorf("file:%s: the only parameter is overwrite, once, with 0 or 1", s)
		}
		o.Overwrite = v[0] == "1"
	}
	return path, o, nil
}

// cutParameters takes "?name=value" off a path.
func cutParameters(s string) (path, parameters string) {
	i := strings.LastIndexByte(s, '?')
	if i < 0 || !strings.Contains(s[i:], "=") {
		return s, ""
	}
	return s[:i], s[i+1:]
}

// Sink is a device that keeps the state which is loaded into it in a file. It
// has STOP_COPY like every device, and gives nothing there.
type Sink struct {
	*device
	statfs func() (unix.Statfs_t, error)
}

var _ vfio.Storage = (*Sink)(nil)

// Room implements [vfio.Storage]. The place is the number of the file system, and pipes have
// none: errors.ErrUnsupported.
func (s *Sink) Room() (free uint64, place string, err error) {
	if s.statfs == nil {
		return 0, "", errors.ErrUnsupported
	}
	room, err := s.statfs()
	if err != nil {
		return 0, "", opError(s.name, err)
	}
	return room.Bavail * uint64(room.Bsize), fmt.Sprintf("%x", room.Fsid.Val), nil
}

// NewSink makes a sink for a file that does not exist yet, unless the options
// say otherwise. Only its owner may read the file (mode 0600): a device's state
// is as secret as the guest's memory.
func NewSink(path string, o *SinkOptions) (*Sink, error) {
	e := &pathEnd{path: path, overwrite: o != nil && o.Overwrite, create: createHidden, syncDir: (*os.File).Sync}
	if err := e.check(); err != nil {
		return nil, opError(path, err)
	}
	return &Sink{device: newDevice(path, vfio.Features{}, e), statfs: func() (room unix.Statfs_t, err error) {
		return room, unix.Statfs(filepath.Dir(path), &room)
	}}, nil
}

// ToFD makes a sink of an fd, which it owns from then on and closes with itself,
// and which is put into non-blocking mode unless it is a regular file. An fd that
// it refuses stays the caller's, as it was. There is no name to hide the state
// behind: bytes go out as they come, and those of a session that failed are not
// taken back.
func ToFD(fd int, name string) (*Sink, error) {
	if err := checkMode(fd, unix.O_WRONLY); err != nil {
		return nil, opError(name, err)
	}
	f, err := takeOver(fd, name)
	if err != nil {
		return nil, opError(name, err)
	}
	s := &Sink{device: newDevice(name, vfio.Features{}, &fdEnd{f: f, sync: fdatasync})}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		s.statfs = func() (room unix.Statfs_t, err error) { return room, unix.Fstatfs(int(f.Fd()), &room) }
	}
	return s, nil
}

// StopCopySize implements [vfio.Device]: a sink has no state to give.
func (s *Sink) StopCopySize() (uint64, error) {
	return 0, s.fail("get size", errors.ErrUnsupported)
}

var errOnlyWritten = fmt.Errorf("%w: a sink is only written", unix.EBADF)

// pathEnd is a file that gets its name when it is complete.
type pathEnd struct {
	path      string
	overwrite bool
	create    func(dir, base string) (*hidden, error)
	syncDir   func(dir *os.File) error

	next     *hidden // what the next session is written to, nil for a new file
	file     *hidden // nil but between RESUMING and the commit
	sess     *session
	prepared bool // its data is durable, the name is missing
}

func (e *pathEnd) dir() string { return filepath.Dir(e.path) }

// check refuses what the commit could not do. A file that is the word of a session is
// looked at again before the next one.
func (e *pathEnd) check() error {
	st, err := os.Lstat(e.path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !strings.HasSuffix(e.path, "/") && e.path != "":
	case err != nil:
		return err
	case st.IsDir():
		return unix.EISDIR
	case !e.overwrite && !st.Mode().IsRegular(), !e.overwrite && !recorded(e.path):
		return errTaken
	}
	return e.try()
}

var errTaken = fmt.Errorf("%w (overwrite=1 replaces it)", unix.EEXIST)

// vacant refuses a session whose commit would find a file of that name: a session that
// was committed before a crash, and may be asked for.
func (e *pathEnd) vacant() error {
	if _, err := os.Lstat(e.path); err == nil && !e.overwrite {
		return errTaken
	}
	return nil
}

// try makes the hidden file once: what a directory, its file system and its
// owner think of that, only they know.
func (e *pathEnd) try() error {
	h, err := e.create(e.dir(), filepath.Base(e.path))
	if err != nil {
		return fmt.Errorf("cannot create a file in %s: %w", e.dir(), cause(err))
	}
	return h.discard()
}

func (e *pathEnd) arc(from, to vfio.State) (*session, error) {
	switch {
	case to == vfio.StopCopy:
		return deadSession("file:"+e.path, nil, errOnlyWritten), nil
	case to == vfio.Resuming:
		return e.begin()
	case from == vfio.Resuming:
		return nil, e.prepare()
	case to == vfio.Running && e.prepared:
		return nil, e.commit()
	}
	return nil, nil
}

func (e *pathEnd) begin() (*session, error) {
	if err := e.vacant(); err != nil {
		return nil, err
	}
	if err := e.drop(); err != nil {
		return nil, err
	}
	h, err := e.open()
	if err != nil {
		return nil, err
	}
	e.file, e.sess = h, newSession("file:"+e.path, h.f, true)
	e.sess.sparse = true
	return e.sess, nil
}

// open gives the file of a session: a persistent one was opened before.
func (e *pathEnd) open() (*hidden, error) {
	if h := e.next; h != nil {
		e.next = nil
		return h, nil
	}
	return e.create(e.dir(), filepath.Base(e.path))
}

// prepare is RESUMING -> STOP: after it, only the name is missing.
func (e *pathEnd) prepare() error {
	// It may end with a hole.
	err := e.file.f.Truncate(e.sess.offset.Load())
	if err == nil {
		err = fdatasync(e.file.f)
	}
	if err != nil {
		// Linux tells of lost data once: a second fdatasync would succeed.
		e.sess.broken = err
		return err
	}
	e.prepared = true
	return nil
}

// commit is STOP -> RUNNING. When it fails the device is still in STOP and may be
// asked again, unless it was the directory that could not be made durable: Linux
// tells of lost data once, so that a second fsync would succeed.
func (e *pathEnd) commit() error {
	dir, err := os.Open(e.dir())
	if err != nil {
		return err
	}
	defer dir.Close()
	undo, err := e.file.publish(e.path, e.overwrite)
	if err != nil {
		return err
	}
	if err := synced(e.syncDir(dir)); err != nil {
		return e.takeBack(undo, fmt.Errorf("sync %s: %w; %w", e.dir(), cause(err), errGone))
	}
	_ = e.file.discard() // its data is durable; what it replaced goes, or stays hidden
	e.file, e.prepared = nil, false
	return nil
}

// takeBack leaves nothing of a file that was published for nothing, and says
// what there is where that cannot be.
func (e *pathEnd) takeBack(undo func() error, why error) error {
	if err := undo(); err != nil {
		why = fmt.Errorf("%w; cannot take %s back: %w", why, e.path, err)
	}
	_ = e.file.discard()
	e.file = nil
	return why
}

func (e *pathEnd) drop() error {
	h := e.file
	e.file, e.prepared = nil, false
	if h == nil {
		return nil
	}
	return h.discard()
}

// close leaves a complete state for a later process: this one may not know what has become of
// the session.
func (e *pathEnd) close() error { return e.leave() }

// leave closes the file. One that is complete stays, for a later process.
func (e *pathEnd) leave() error {
	if h := e.file; h != nil && h.complete {
		e.file, e.prepared = nil, false
		return h.f.Close()
	}
	return e.drop()
}

// fdEnd is a file that somebody else has opened.
type fdEnd struct {
	f    *os.File
	sync func(*os.File) error
	lost error // what sync said: Linux says it once, and a second sync would succeed
	sess *session
	from int64 // where a sparse session begins
}

func (e *fdEnd) arc(from, to vfio.State) (*session, error) {
	switch {
	case e.lost != nil:
		return nil, e.lost
	case to == vfio.StopCopy:
		return deadSession("file:"+e.f.Name(), e.f, errOnlyWritten), nil
	case to == vfio.Resuming:
		e.sess = newSession("file:"+e.f.Name(), e.f, true)
		e.from, e.sess.sparse = vacantBehind(e.f)
		return e.sess, nil
	case from == vfio.Resuming:
		e.lost = e.end()
	}
	return nil, e.lost
}

// vacantBehind says at which position a regular file is, and whether nothing is stored from
// there on, so that it is enough to move on where zeros are to be. With O_APPEND each write goes
// to the end of the file, wherever that is (open(2)).
func vacantBehind(f *os.File) (at int64, vacant bool) {
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

// end makes the state durable. It may end with a hole.
func (e *fdEnd) end() error {
	if e.sess.sparse {
		if err := grow(e.f, e.from+e.sess.offset.Load()); err != nil {
			return err
		}
	}
	return synced(e.sync(e.f))
}

func (e *fdEnd) drop() error  { return nil }
func (e *fdEnd) close() error { return e.f.Close() }
