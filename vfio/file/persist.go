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
	_ vfio.Resumable  = (*Destination)(nil)
	_ vfio.Persistent = (*persistent)(nil)
)

// Persist implements [vfio.Resumable]. A later process cannot find the file before the state is
// complete: a crash until then leaves nothing.
func (s *Destination) Persist(id string) (vfio.Persistent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, path, err := s.sessionPath(id)
	if err == nil {
		err = s.checkFree(e)
	}
	if err == nil {
		err = e.checkVacant()
	}
	if err == nil {
		err = removeSession(path)
	}
	if err != nil {
		return nil, s.fail("persist", err)
	}
	h, err := e.create(e.dir(), filepath.Base(e.path))
	if err != nil {
		return nil, s.fail("persist", stripPath(err))
	}
	// If the file system has no extended attributes, fail before the state is loaded.
	if err := probeRecord(h.f); err != nil {
		return nil, s.fail("persist", errors.Join(err, h.discard()))
	}
	if err := s.beginWith(e, h, 0); err != nil {
		return nil, s.fail("persist", err)
	}
	return &persistent{session: s.sess, file: e, id: id, path: path, store: storeRecord}, nil
}

// Resume implements [vfio.Resumable]. A crash during a commit may have left the file under both
// of its names: then the session is committed. Resume makes the name durable before it returns,
// since the caller may then discard the only other copy.
func (s *Destination) Resume(id string) (note []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, path, err := s.sessionPath(id)
	if err == nil {
		err = s.checkFree(e)
	}
	if err != nil {
		return nil, s.fail("resume", err)
	}
	if r, err := publishedRecord(e.path); err == nil && r.id == id {
		return r.note, s.fail("resume", cmp.Or(e.syncNames(), vfio.ErrCommitted))
	}
	h, r, err := reopen(path, id)
	if err != nil {
		return nil, s.fail("resume", err)
	}
	if err := e.checkVacant(); err != nil {
		return nil, s.fail("resume", errors.Join(err, h.f.Close()))
	}
	if err := s.beginWith(e, h, r.offset); err != nil {
		return nil, s.fail("resume", err)
	}
	if err := s.walk(vfio.Stop); err != nil {
		s.sess.end()
		s.state, s.sess = vfio.Running, nil
		return nil, s.fail("resume", errors.Join(err, e.closeFile()))
	}
	return r.note, nil
}

// Remove implements [vfio.Resumable].
func (s *Destination) Remove(id string) error {
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

// removeRecord removes the record of a committed session from its file.
func (e *pathFile) removeRecord(id string) error {
	if r, err := publishedRecord(e.path); err != nil || r.id != id {
		return nil // there is no record, or it belongs to another session
	}
	return unix.Lremovexattr(e.path, attribute)
}

// Detach implements [vfio.Resumable].
func (s *Destination) Detach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _, err := s.sessionPath("any")
	if err != nil {
		return s.fail("detach", err)
	}
	s.sess.end()
	s.state, s.sess = vfio.Running, nil
	if err := e.closeFile(); err != nil {
		return s.fail("detach", err)
	}
	return nil
}

// Persisted implements [vfio.Resumable].
func (s *Destination) Persisted() ([]vfio.PersistedSession, error) {
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
		if st, err := os.Lstat(filepath.Join(e.dir(), name)); err == nil { // otherwise it was removed meanwhile
			all = append(all, vfio.PersistedSession{ID: id, Since: st.ModTime()})
		}
	}
	for _, n := range names {
		id, ours := strings.CutPrefix(n.Name(), e.sessionPrefix())
		id, session := strings.CutSuffix(id, suffix)
		if ours && session && id != "" && !strings.ContainsFunc(id, notInID) {
			add(id, n.Name())
		}
	}
	if r, err := publishedRecord(e.path); err == nil && !slices.ContainsFunc(all, func(p vfio.PersistedSession) bool { return p.ID == r.id }) {
		add(r.id, filepath.Base(e.path))
	}
	return all, nil
}

// beginWith enters RESUMING with a file that has offset bytes of the state. If it fails, it
// closes a complete file and discards any other.
func (s *Destination) beginWith(e *pathFile, h *hiddenFile, offset uint64) error {
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

// sessionPath returns the path of the file that holds a complete session. It fails if this destination
// cannot have one.
func (s *Destination) sessionPath(id string) (e *pathFile, path string, err error) {
	e, ok := s.backend.(*pathFile)
	switch {
	case s.closed:
		return nil, "", os.ErrClosed
	case !ok:
		return nil, "", fmt.Errorf("%w: a later process can find only a file that was opened by its path", errors.ErrUnsupported)
	case id == "" || len(id) > maxID || strings.ContainsFunc(id, notInID):
		return nil, "", fmt.Errorf("%w: %.80q is not a session id", unix.EINVAL, id)
	}
	return e, filepath.Join(e.dir(), e.sessionPrefix()+id+suffix), nil
}

// suffix is the end of the name of a file with a complete session. The id stands between
// sessionPrefix and suffix.
const suffix = ".resumable"

func (e *pathFile) sessionPrefix() string { return "." + filepath.Base(e.path) + "." }

// notInID reports whether an id, which is part of a file's name, may not contain r.
func notInID(r rune) bool {
	return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// checkFree refuses a device that holds a state, or cannot go to RESUMING.
func (s *Destination) checkFree(e *pathFile) error {
	if e.file != nil {
		return fmt.Errorf("%w: it holds a state in %v, reset it first", vfio.ErrBusy, s.state)
	}
	return vfio.Legal(s.state, vfio.Resuming, s.features)
}

// syncNames makes the names in the directory durable. fsync of a file does not (fsync(2)).
func (e *pathFile) syncNames() error {
	dir, err := os.Open(e.dir())
	if err != nil {
		return err
	}
	defer dir.Close()
	return ignoreUnsyncable(e.syncDir(dir))
}

// openLocked opens and locks a file that another process has left.
func openLocked(path string) (*hiddenFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENAMETOOLONG) { // NAME fits, but not .NAME.ID.resumable: the destination works without sessions
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	if err := lockNamed(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &hiddenFile{f: f, temp: path}, nil
}

// lockNamed locks the file at path. It fails with ErrBusy if another process has
// it. The lock ends with the process that holds it (flock(2)).
func lockNamed(f *os.File, path string) error {
	if err := lockFile(f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	// The process that had the lock may have removed the name since the file was opened.
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(mine, named) {
		return fmt.Errorf("%w: another process has used %s", vfio.ErrBusy, path)
	}
	return nil
}

func lockFile(f *os.File) error {
	err := onFD(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another process has locked it", vfio.ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	return nil
}

// reopen opens the file of a complete session that another process has left. It sets the
// position to the end of the state.
func reopen(path, id string) (*hiddenFile, record, error) {
	h, err := openLocked(path)
	if err != nil {
		return nil, record{}, err
	}
	r, err := loadRecord(h.f, id)
	if err == nil {
		_, err = h.f.Seek(int64(r.offset), io.SeekStart)
	}
	if err != nil {
		return nil, record{}, errors.Join(fmt.Errorf("%s: %w", path, stripPath(err)), h.f.Close())
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
	file  *pathFile
	id    string
	path  string // of the complete file
	store func(f *os.File, r record) error
}

// Complete implements [vfio.Persistent]. It gives the file its name last, when data and record
// are durable.
func (p *persistent) Complete(note []byte) error {
	_, err := p.withFile(true, func() (int, error) {
		err := p.store(p.f, record{p.id, uint64(p.offset.Load()), note})
		if err == nil {
			err = p.file.file.persistAs(p.path)
		}
		if err == nil {
			err = p.file.syncNames()
		}
		return 0, err
	})
	if err != nil {
		return p.fail("complete", err)
	}
	return nil
}
