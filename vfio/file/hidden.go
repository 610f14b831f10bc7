package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hiddenFile is a file that does not have its final name yet.
type hiddenFile struct {
	f    *os.File
	temp string // the temporary name, "" for none
	// complete is true if a later process can resume the state, by that name.
	complete bool
}

// createHidden creates a file without a name (O_TMPFILE). If the file system
// cannot, the file has a temporary name that begins with a dot.
func createHidden(dir, base string) (*hiddenFile, error) {
	h, err := createUnnamed(dir, base)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		return createNamed(dir, base)
	}
	return h, err
}

func createUnnamed(dir, _ string) (*hiddenFile, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &hiddenFile{f: f}, nil
}

func createNamed(dir, base string) (*hiddenFile, error) {
	removeAbandoned(dir, base)
	f, err := os.CreateTemp(dir, "."+base+".*"+partial)
	if err != nil {
		return nil, err
	}
	_ = lockFile(f) // without locks, removeAbandoned removes no file
	return &hiddenFile{f: f, temp: f.Name()}, nil
}

// partial ends the name of a file whose state is not complete.
const partial = ".partial"

// removeAbandoned removes files with temporary names that a crash has left: no process has a
// lock on them.
func removeAbandoned(dir, base string) {
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), "."+base+".") && strings.HasSuffix(n.Name(), partial) && n.Type().IsRegular() {
			_ = removeSession(filepath.Join(dir, n.Name()))
		}
	}
}

// persistAs gives the file a name by which a later process finds it. The file is locked as long
// as this process has it open.
func (h *hiddenFile) persistAs(path string) error {
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

// publish gives the file its final name, atomically on every file system. undo
// restores the old state, if it can. The caller must call discard afterwards,
// which does not touch a published file.
func (h *hiddenFile) publish(path string, overwrite bool) (undo func() error, err error) {
	if h.temp == "" && !overwrite {
		return unlink(path), h.link(path)
	}
	if err := h.giveName(filepath.Dir(path), filepath.Base(path)); err != nil {
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

// replace publishes over an existing file. It exchanges the two names, so that
// undo can exchange them again, and discard removes the old file.
func (h *hiddenFile) replace(path string, exchange func(a, b string) error) (undo func() error, err error) {
	st, missing := os.Lstat(path)
	if missing == nil && st.IsDir() {
		return nil, unix.EISDIR // rename refuses a directory, an exchange does not
	}
	if missing == nil && exchange(h.temp, path) == nil {
		return func() error { return h.undoExchange(path, exchange) }, nil
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

// undoExchange exchanges the names again. If it fails, the old file has the
// temporary name, so discard must not remove that name.
func (h *hiddenFile) undoExchange(path string, exchange func(a, b string) error) error {
	err := exchange(h.temp, path)
	if err != nil {
		err = fmt.Errorf("%w; the file that was replaced is at %s", err, h.temp)
		h.temp = ""
	}
	return err
}

var errReplaced = errors.New("the new file has replaced the old one, which cannot be restored")

func unlink(path string) func() error { return func() error { return unix.Unlink(path) } }

// giveName gives a file without a name a temporary one. A rename needs it, since
// a link cannot replace a file.
func (h *hiddenFile) giveName(dir, base string) error {
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

// link gives a name to a file without one. A link by the fd alone needs a
// capability before Linux 6.10; a link by /proc/self/fd needs /proc.
func (h *hiddenFile) link(path string) error {
	fd := int(h.f.Fd())
	err := unix.Linkat(fd, "", unix.AT_FDCWD, path, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	return err
}

// exchange swaps two names, if the file system can.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// rename renames a file. It fails if the new name exists.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A file system without that flag may have links, which replace no file.
	if err := unix.Link(from, to); err != nil {
		return err
	}
	return unix.Unlink(from)
}

// discard closes the file, and removes it unless it was published. It removes
// the name before the close releases the lock.
func (h *hiddenFile) discard() (err error) {
	if h.temp != "" {
		err = os.Remove(h.temp)
	}
	return errors.Join(err, h.f.Close())
}

func fdatasync(f *os.File) error { return onFD(f, unix.Fdatasync) }

// onFD calls do with the file's fd. Unlike Fd, it does not change the fd's mode.
func onFD(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := c.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(cerr, err)
}

// ignoreUnsyncable ignores the errors of a sync of files that cannot be made
// durable: pipes, sockets and terminals, and directories of some file systems.
func ignoreUnsyncable(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
