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

	"github.com/migpipe/migpipe/vfio"
	"golang.org/x/sys/unix"
)

var (
	_ vfio.Resumable = (*Sink)(nil)
	_ vfio.Durable   = (*kept)(nil)
)

// Keep implements [vfio.Resumable]. The hidden file has a name, for a later process
// to find it by, and is locked as long as this one has it.
func (s *Sink) Keep(id string, note []byte) (vfio.Durable, error) {
	k, _, err := s.enter("keep", id, func(e *pathEnd, path string) (*hidden, record, error) {
		r := record{id: id, note: note}
		if err := e.vacant(); err != nil {
			return nil, r, err
		}
		h, err := e.keep(path, r)
		return h, r, err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Resume implements [vfio.Resumable]. A crash in the middle of a commit may have left the
// file under both of its names: the commit counts. Its name is made durable before that
// is said: whoever hears it may drop the only other copy.
func (s *Sink) Resume(id string) (_ vfio.Durable, offset uint64, note []byte, err error) {
	k, r, err := s.enter("resume", id, func(e *pathEnd, path string) (*hidden, record, error) {
		if r, err := recordOf(e.path); err == nil && r.id == id {
			return nil, r, cmp.Or(e.syncNames(), vfio.ErrCommitted)
		}
		h, r, err := reopen(path, id)
		if err != nil {
			return nil, record{}, err
		}
		if err := e.vacant(); err != nil {
			return nil, record{}, errors.Join(err, h.f.Close())
		}
		return h, r, nil
	})
	switch {
	case errors.Is(err, vfio.ErrCommitted):
		return nil, r.offset, r.note, err
	case err != nil:
		return nil, 0, nil, err
	}
	return k, r.offset, r.note, nil
}

// Forget implements [vfio.Resumable].
func (s *Sink) Forget(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, path, err := s.keeps(id)
	if err == nil {
		err = errors.Join(forget(path), e.unrecord(id))
	}
	if err != nil {
		return s.fail("forget", err)
	}
	return nil
}

// unrecord takes the word of a session that is committed off its file.
func (e *pathEnd) unrecord(id string) error {
	if r, err := recordOf(e.path); err != nil || r.id != id {
		return nil // there is none, or it is another's
	}
	return unix.Lremovexattr(e.path, attribute)
}

// Leave implements [vfio.Resumable].
func (s *Sink) Leave() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _, err := s.keeps("any")
	if err != nil {
		return s.fail("leave", err)
	}
	s.sess.end()
	s.state, s.sess = vfio.Running, nil
	if err := e.leave(); err != nil {
		return s.fail("leave", err)
	}
	return nil
}

// Left implements [vfio.Resumable].
func (s *Sink) Left() ([]vfio.Leftover, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _, err := s.keeps("any")
	if err != nil {
		return nil, s.fail("list", err)
	}
	names, err := os.ReadDir(e.dir())
	if err != nil {
		return nil, s.fail("list", err)
	}
	var left []vfio.Leftover
	add := func(id, name string) {
		if st, err := os.Lstat(filepath.Join(e.dir(), name)); err == nil { // else it is gone by now
			left = append(left, vfio.Leftover{ID: id, Since: st.ModTime()})
		}
	}
	for _, n := range names {
		id, ours := strings.CutPrefix(n.Name(), e.prefix())
		id, kept := strings.CutSuffix(id, suffix)
		if ours && kept && id != "" && !strings.ContainsFunc(id, notInID) {
			add(id, n.Name())
		}
	}
	if r, err := recordOf(e.path); err == nil && !slices.ContainsFunc(left, func(l vfio.Leftover) bool { return l.ID == r.id }) {
		add(r.id, filepath.Base(e.path))
	}
	return left, nil
}

// enter goes to RESUMING with the file that open gives. That comes first: when it
// fails the device has gone nowhere.
func (s *Sink) enter(op, id string, open func(e *pathEnd, path string) (*hidden, record, error)) (*kept, record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, path, err := s.keeps(id)
	if err == nil {
		err = s.free(e)
	}
	if err != nil {
		return nil, record{}, s.fail(op, err)
	}
	h, r, err := open(e, path)
	if err != nil {
		return nil, r, s.fail(op, err)
	}
	e.next = h
	if err := s.walk(vfio.Resuming); err != nil {
		e.next = nil
		return nil, record{}, s.fail(op, errors.Join(err, h.f.Close()))
	}
	s.sess.offset.Store(int64(r.offset))
	return &kept{session: s.sess, id: id, store: store}, r, nil
}

// keeps gives the path of the file that keeps a session, if this sink can have one.
func (s *Sink) keeps(id string) (e *pathEnd, path string, err error) {
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

// The name of a file that keeps a session has the id between these.
const suffix = ".resumable"

func (e *pathEnd) prefix() string { return "." + filepath.Base(e.path) + "." }

// notInID: an id is part of a file's name.
func notInID(r rune) bool {
	return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// free refuses a device that would lose what it holds, or cannot go to RESUMING.
func (s *Sink) free(e *pathEnd) error {
	if e.file != nil {
		return fmt.Errorf("%w: it holds a state in %v, reset it first", vfio.ErrBusy, s.state)
	}
	return vfio.Legal(s.state, vfio.Resuming, s.features)
}

// keep makes the file of a session. Its name comes first and its record second: a
// crash in between leaves a file that is taken for no session.
func (e *pathEnd) keep(path string, r record) (*hidden, error) {
	if err := forget(path); err != nil {
		return nil, err
	}
	h, err := createLocked(path)
	if err != nil {
		return nil, err
	}
	err = store(h.f, r)
	if err == nil {
		err = e.syncNames()
	}
	if err != nil {
		return nil, errors.Join(err, h.discard())
	}
	h.kept = true
	return h, nil
}

// syncNames makes the names in the folder durable: fsync of a file does not
// (fsync(2)).
func (e *pathEnd) syncNames() error {
	dir, err := os.Open(e.dir())
	if err != nil {
		return err
	}
	defer dir.Close()
	return synced(e.syncDir(dir))
}

func createLocked(path string) (*hidden, error) {
	f, err := open(path, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	h := &hidden{f: f, temp: path}
	switch err := lock(f, path); {
	case errors.Is(err, vfio.ErrBusy): // it is theirs
		return nil, errors.Join(err, f.Close())
	case err != nil:
		return nil, errors.Join(err, h.discard())
	}
	return h, nil
}

// openLocked opens a file that a crash has left.
func openLocked(path string) (*hidden, error) {
	f, err := open(path, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	if err := lock(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &hidden{f: f, temp: path}, nil
}

// open opens a file that keeps a session. A sink whose own name leaves no room for
// the longer one works without.
func open(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o600)
	if errors.Is(err, unix.ENAMETOOLONG) {
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return f, err
}

// lock finds out whether another process has the file. The lock goes with the
// process that holds it, however that ends (flock(2)).
func lock(f *os.File, path string) error {
	busy := fmt.Errorf("%w: another process has %s", vfio.ErrBusy, path)
	err := onFD(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return busy
	}
	if err != nil {
		return fmt.Errorf("flock %s: %w", path, err)
	}
	// Who had the lock before may have removed the name since the file was opened.
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(mine, named) {
		return busy
	}
	return nil
}

// reopen opens the file of a session that a crash has left, with its position behind
// what is durable, and cuts off the rest.
func reopen(path, id string) (*hidden, record, error) {
	h, err := openLocked(path)
	if err != nil {
		return nil, record{}, err
	}
	r, err := load(h.f, id)
	if err == nil {
		err = h.f.Truncate(int64(r.offset))
	}
	if err == nil {
		_, err = h.f.Seek(int64(r.offset), io.SeekStart)
	}
	if err != nil {
		return nil, record{}, errors.Join(fmt.Errorf("%s: %w", path, cause(err)), h.f.Close())
	}
	h.kept = true
	return h, r, nil
}

func forget(path string) error {
	h, err := openLocked(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.discard()
}

// kept is a session whose file outlives the process.
type kept struct {
	*session
	id    string
	store func(f *os.File, r record) error
}

// Sync implements [vfio.Durable].
func (k *kept) Sync(note []byte) error {
	_, err := k.use(true, func() (int, error) {
		return 0, k.store(k.f, record{k.id, uint64(k.offset.Load()), note})
	})
	if err != nil {
		return k.fail("sync", err)
	}
	return nil
}
