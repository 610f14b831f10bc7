package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hidden is a file that does not have its name yet.
type hidden struct {
	f    *os.File
	temp string // the name that it has meanwhile, "" for none at all
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
	f, err := os.CreateTemp(dir, "."+base+".*.partial")
	if err != nil {
		return nil, err
	}
	return &hidden{f: f, temp: f.Name()}, nil
}

// publish gives the file its name, in one step whatever the file system.
func (h *hidden) publish(path string, overwrite bool) error {
	if h.temp == "" && !overwrite {
		return h.link(path)
	}
	if err := h.name(filepath.Dir(path), filepath.Base(path)); err != nil {
		return err
	}
	if err := rename(h.temp, path, overwrite); err != nil {
		return err
	}
	h.temp = ""
	return nil
}

// name gives a file without a name one that can be renamed: a link replaces
// nothing.
func (h *hidden) name(dir, base string) error {
	for i := 0; h.temp == ""; i++ {
		temp := filepath.Join(dir, fmt.Sprintf(".%s.%d-%d.partial", base, os.Getpid(), i))
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

func rename(from, to string, overwrite bool) error {
	if overwrite {
		return unix.Rename(from, to)
	}
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

// discard leaves nothing of the file.
func (h *hidden) discard() error {
	err := h.f.Close()
	if h.temp != "" {
		err = errors.Join(err, os.Remove(h.temp))
	}
	return err
}

func fdatasync(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := c.Control(func(fd uintptr) { err = unix.Fdatasync(int(fd)) })
	return errors.Join(cerr, err)
}

// syncDir makes a name in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
