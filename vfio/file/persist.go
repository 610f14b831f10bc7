package file

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
)

var (
	_ vfio.Resumable  = (*Sink)(nil)
	_ vfio.Persistent = (*persistent)(nil)
)

// Persist implements [vfio.Resumable]. The file has no name that a later process could find it
// by, before the state is complete: a crash until then leaves nothing.
func (s *Sink) Persist(id string) (vfio.Persistent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, path, err := s.sessionPath(id)
	if err == nil {
		err = s.checkFree(e)
	}
	if err == nil {
		err = e.vacant()
	}
	if err == nil {
		err = removeSession(path)
	}
	if err != nil {
		return nil, s.fail("persist", err)
	}
	h, err := e.create(e.dir(), filepath.Base(e.path))
	if err != nil {
		return nil, s.fail("persist", cause(err))
	}
	// Whether the file system has extended attributes is known before the state is loaded.
	if err := tryRecord(h.f); err != nil {
		return nil, s.fail("persist", errors.Join(err, h.discard()))
	}
	if err := s.open(e, h, 0); err != nil {
		return nil, s.fail("persist", err)
	}
	return &persistent{session: s.sess, end: e, id: id, path: path, store: store}, nil
}

// Resume implements [vfio.Resumable]. A crash in the middle of a commit may have left the
// file under both of its names: the commit counts. Its name is made durable before Resume
// returns: the caller may then discard the only other copy.
func (s *Sink) Resume(id string) (note []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, path, err := s.sessionPath(id)
	if err == nil {
		err = s.checkFree(e)
	}
	if err != nil {
		return nil, s.fail("resume", err)
	}
	if r, err := recordOf(e.path); err == nil && r.id == id {
		return r.note, s.fail("resume", cmp.Or(e.syncNames(), vfio.ErrCommitted))
	}
	h, r, err := reopen(path, id)
	if err != nil {
		return nil, s.fail("resume", err)
	}
	if err := e.vacant(); err != nil {
		return nil, s.fail("resume", errors.Join(err, h.f.Close()))
	}
	if err := s.open(e, h, r.offset); err != nil {
		return nil, s.fail("resume", err)
	}
	if err := s.walk(vfio.Stop); err != nil {
		s.sess.end()
		s.state, s.sess = vfio.Running, nil
		return nil, s.fail("resume", errors.Join(err, e.leave()))
	}
	return r.note, nil
}

// Remove implements [vfio.Resumable].
func (s *Sink) Remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, path, err := s.sessionPath(id)
	if err == nil {
		err = errors.Join(removeSession(path), e.removeRecord(id))
	}
	if err != nil {
		return s.fail("remove", err)
	}
	return nil
}

// removeRecord takes the record of a session that is committed off its file.
func (e *pathEnd) removeRecord(id string) error {
	if r, err := recordOf(e.path); err != nil || r.id != id {
		return nil // there is none, or it is another's
	}
	return unix.Lremovexattr(e.path, attribute)
}

// Detach implements [vfio.Resumable].
func (s *Sink) Detach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _, err := s.sessionPath("any")
	if err != nil {
		return s.fail("detach", err)
	}
	s.sess.end()
	s.state, s.sess = vfio.Running, nil
	if err := e.leave(); err != nil {
		return s.fail("detach", err)
	}
	return nil
}

// Persisted implements [vfio.Resumable].
func (s *Sink) Persisted() ([]vfio.PersistedSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _, err := s.sessionPath("any")
	if err != nil {
		return nil, s.fail("list", err)
	}
	names, err := os.ReadDir(e.dir())
	if err != nil {
		return nil, s.fail("list", err)
	}
	var all []vfio.PersistedSession
	add := func(id, name string) {
		if st, err := os.Lstat(filepath.Join(e.dir(), name)); err == nil { // else it was removed meanwhile
			all = append(all, vfio.PersistedSession{ID: id, Since: st.ModTime()})
		}
	}
	for _, n := range names {
		id, ours := strings.CutPrefix(n.Name(), e.prefix())
		id, session := strings.CutSuffix(id, suffix)
		if ours && session && id != "" && !strings.ContainsFunc(id, notInID) {
			add(id, n.Name())
		}
	}
	if r, err := recordOf(e.path); err == nil && !slices.ContainsFunc(all, func(p vfio.PersistedSession) bool { return p.ID == r.id }) {
		add(r.id, filepath.Base(e.path))
	}
	return all, nil
}

// open goes to RESUMING with a file that has so many bytes of the state. If that fails, the
// file is discarded.
func (s *Sink) open(e *pathEnd, h *hidden, offset uint64) error {
	e.next = h
	if err := s.walk(vfio.Resuming); err != nil {
		e.next = nil
		if h.complete {
			return errors.Join(err, h.f.Close())
		}
		return errors.Join(err, h.discard())
	}
	s.sess.offset.Store(int64(offset))
	return nil
}

// sessionPath is the path of the file that holds a complete session, if this sink can have one.
func (s *Sink) sessionPath(id string) (e *pathEnd, path string, err error) {
	e, ok := s.ends.(*pathEnd)
	switch {
	case s.closed:
		return nil, "", os.ErrClosed
	case !ok:
		return nil, "", fmt.Errorf("%w: only a file that is opened by its path can be found again", errors.ErrUnsupported)
	case id == "" || len(id) > maxID || strings.ContainsFunc(id, notInID):
		return nil, "", fmt.Errorf("%w: %.80q is no id of a session", unix.EINVAL, id)
	}
	return e, filepath.Join(e.dir(), e.prefix()+id+suffix), nil
}

// The name of a file with a complete session has the id between these.
const suffix = ".resumable"

func (e *pathEnd) prefix() string { return "." + filepath.Base(e.path) + "." }

// notInID: an id is part of a file's name.
func notInID(r rune) bool {
	return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// checkFree refuses a device that would lose what it holds, or cannot go to RESUMING.
func (s *Sink) checkFree(e *pathEnd) error {
	if e.file != nil {
		return fmt.Errorf("%w: it holds a state in %v, reset it first", vfio.ErrBusy, s.state)
	}
	return vfio.Legal(s.state, vfio.Resuming, s.features)
}

// syncNames makes the names in the directory durable: fsync of a file does not (fsync(2)).
func (e *pathEnd) syncNames() error {
	dir, err := os.Open(e.dir())
	if err != nil {
		return err
	}
	defer dir.Close()
	return synced(e.syncDir(dir))
}

// openLocked opens a file that a crash has left.
func openLocked(path string) (*hidden, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENAMETOOLONG) { // a sink whose own name leaves no room for the longer one works without
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	if err := lock(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &hidden{f: f, temp: path}, nil
}

// lock finds out whether another process has the file. The lock goes with the
// process that holds it, however that ends (flock(2)).
func lock(f *os.File, path string) error {
	if err := lockFile(f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	// The process that had the lock may have removed the name since the file was opened.
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(mine, named) {
		return fmt.Errorf("%w: another process has %s", vfio.ErrBusy, path)
	}
	return nil
}

func lockFile(f *os.File) error {
	err := onFD(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another process has it", vfio.ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	return nil
}

// reopen opens the file of a complete session that a crash has left, with its position at the
// end of the state.
func reopen(path, id string) (*hidden, record, error) {
	h, err := openLocked(path)
	if err != nil {
		return nil, record{}, err
	}
	r, err := load(h.f, id)
	if err == nil {
		_, err = h.f.Seek(int64(r.offset), io.SeekStart)
	}
	if err != nil {
		return nil, record{}, errors.Join(fmt.Errorf("%s: %w", path, cause(err)), h.f.Close())
	}
	h.complete = true
	return h, r, nil
}

func removeSession(path string) error {
	h, err := openLocked(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.discard()
}

// persistent is a session whose file outlives the process when it is complete.
type persistent struct {
	*session
	end   *pathEnd
	id    string
	path  string // of the file, then
	store func(f *os.File, r record) error
}

// Complete implements [vfio.Persistent]. The name comes last, and says that all the rest is
// durable.
func (p *persistent) Complete(note []byte) error {
	_, err := p.use(true, func() (int, error) {
		err := p.store(p.f, record{p.id, uint64(p.offset.Load()), note})
		if err == nil {
			err = p.end.file.keepAs(p.path)
		}
		if err == nil {
			err = p.end.syncNames()
		}
		return 0, err
	})
	if err != nil {
		return p.fail("complete", err)
	}
	return nil
}
