package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hidden is a file that does not have its name yet.
type hidden struct {
	f    *os.File
	temp string // the name that it has meanwhile, "" for none at all
	// complete says that a later process can resume the state, by that name.
	complete bool
}

// createHidden makes a file without a name, or with one that begins with a dot
// where the file system cannot do that (O_TMPFILE).
func createHidden(dir, base string) (*hidden, error) {
	h, err := createUnnamed(dir, base)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		return createNamed(dir, base)
	}
	return h, err
}

func createUnnamed(dir, _ string) (*hidden, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &hidden{f: f}, nil
}

func createNamed(dir, base string) (*hidden, error) {
	removeAbandoned(dir, base)
	f, err := os.CreateTemp(dir, "."+base+".*"+partial)
	if err != nil {
		return nil, err
	}
	_ = lockFile(f) // without locks, nothing is taken for abandoned
	return &hidden{f: f, temp: f.Name()}, nil
}

// partial ends the name of a file whose state is not complete.
const partial = ".partial"

// removeAbandoned removes what a crash has left of the files without a name of their own: no
// process has a lock on them.
func removeAbandoned(dir, base string) {
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), "."+base+".") && strings.HasSuffix(n.Name(), partial) && n.Type().IsRegular() {
			_ = removeSession(filepath.Join(dir, n.Name()))
		}
	}
}

// keepAs gives the file a name by which a later process finds it. It is locked for as long as
// this process has it.
func (h *hidden) keepAs(path string) error {
	if err := lockFile(h.f); err != nil {
		return err
	}
	if h.temp == "" {
		if err := h.link(path); err != nil {
			return err
		}
	} else if err := rename(h.temp, path); err != nil {
		return err
	}
	h.temp, h.complete = path, true
	return nil
}

// publish gives the file its name, in one step whatever the file system. undo
// takes it back, if that is possible; discard, which must follow, leaves the
// published file alone otherwise.
func (h *hidden) publish(path string, overwrite bool) (undo func() error, err error) {
	if h.temp == "" && !overwrite {
		return unlink(path), h.link(path)
	}
	if err := h.name(filepath.Dir(path), filepath.Base(path)); err != nil {
		return nil, err
	}
	if overwrite {
		return h.replace(path, exchange)
	}
	if err := rename(h.temp, path); err != nil {
		return nil, err
	}
	h.temp = ""
	return unlink(path), nil
}

// replace is publish where a file may have the name. That one takes the
// temporary name in exchange: undo gives it back or lets it be, discard removes
// it.
func (h *hidden) replace(path string, exchange func(a, b string) error) (undo func() error, err error) {
	st, missing := os.Lstat(path)
	if missing == nil && st.IsDir() {
		return nil, unix.EISDIR // which rename refuses, an exchange does not
	}
	if missing == nil && exchange(h.temp, path) == nil {
		return func() error { return h.giveBack(path, exchange) }, nil
	}
	if err := unix.Rename(h.temp, path); err != nil {
		return nil, err
	}
	h.temp = ""
	if missing != nil {
		return unlink(path), nil
	}
	return func() error { return errReplaced }, nil
}

// giveBack undoes an exchange. Where it cannot, the temporary name is that of
// somebody's file, which nobody may remove any more.
func (h *hidden) giveBack(path string, exchange func(a, b string) error) error {
	err := exchange(h.temp, path)
	if err != nil {
		err = fmt.Errorf("%w; the file that was replaced is at %s", err, h.temp)
		h.temp = ""
	}
	return err
}

var errReplaced = errors.New("the new file is there, and what it replaced is gone")

func unlink(path string) func() error { return func() error { return unix.Unlink(path) } }

// name gives a file without a name one that can be renamed: a link replaces
// nothing.
func (h *hidden) name(dir, base string) error {
	_ = lockFile(h.f)
	for i := 0; h.temp == ""; i++ {
		temp := filepath.Join(dir, fmt.Sprintf(".%s.%d-%d%s", base, os.Getpid(), i, partial))
		err := h.link(temp)
		if err == nil {
			h.temp = temp
		} else if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// link gives a file without a name one. Linking by the fd alone needs a
// capability before Linux 6.10, linking by way of /proc needs /proc.
func (h *hidden) link(path string) error {
	fd := int(h.f.Fd())
	err := unix.Linkat(fd, "", unix.AT_FDCWD, path, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	return err
}

// exchange swaps two names, where the file system can.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// rename replaces nothing.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A file system without that flag may have links, which replace nothing.
	if err := unix.Link(from, to); err != nil {
		return err
	}
	return unix.Unlink(from)
}

// discard leaves nothing of the file, unless it was published. A lock on the file
// ends with its name, and not before.
func (h *hidden) discard() (err error) {
	if h.temp != "" {
		err = os.Remove(h.temp)
	}
	return errors.Join(err, h.f.Close())
}

func fdatasync(f *os.File) error { return onFD(f, unix.Fdatasync) }

// onFD calls do with the file's fd, whose mode stays what it is.
func onFD(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := c.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(cerr, err)
}

// synced takes it for success that there is nothing to make durable: pipes,
// sockets and terminals, and the directories of some file systems.
func synced(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
