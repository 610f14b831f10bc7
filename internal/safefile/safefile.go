// Package safefile reads small files and checks directories that determine whom a program
// trusts: keys, certificates, lists of peers, journals. It refuses files and directories that
// another user could change. Root may own the files that a service user reads.
//
// A user who may write one of the directories of a path can replace the file. So every
// directory and every symbolic link of the path must belong to root or to this user, and no
// other user may write the directories. All users may write a sticky directory, as /tmp, since
// only the owner of an entry can rename or remove it there (chmod(2), S_ISVTX).
package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUntrusted is the error if a user other than root and this one could change a file, or
// read a secret one.
var ErrUntrusted = errors.New("other users have too much access")

// Access is the access that other users may have to a file.
type Access int

const (
	// Public is for files that all users may read.
	Public Access = iota
	// Secret is for files that only their owner may read. If root owns the file, a group may
	// read it too, if this process is in that group: Kubernetes (fsGroup) and libvirt give a
	// key to a service in this way.
	Secret
)

// Read returns the content of a regular file of at most most bytes. It follows symbolic
// links. It refuses FIFOs and devices, so it does not block. The error for a missing file
// matches fs.ErrNotExist.
func Read(path string, most int64, access Access) ([]byte, error) {
	return ReadBy(Open, path, most, access)
}

// Open opens a file for reading. It does not wait for the other end of a FIFO.
func Open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// ReadBy is Read for a process that may not open the file itself. It calls open, which
// must behave as [Open].
func ReadBy(open func(path string) (*os.File, error), path string, most int64, access Access) ([]byte, error) {
	_, info, err := resolve(path)
	if err == nil {
		err = checkRegular(info) // before the open, since the open of a device may have effects
	}
	if err != nil {
		return nil, err
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil { // of the opened file
		err = checkFile(info, path, access)
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%d bytes, want at most %d", info.Size(), most)
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return text, err
}

func checkRegular(info fs.FileInfo) error {
	if mode := info.Mode(); !mode.IsRegular() {
		return fmt.Errorf("not a regular file (%v)", mode.Type())
	}
	return nil
}

// checkFile checks the type, the owner and the mode of a file.
func checkFile(info fs.FileInfo, path string, access Access) error {
	if err := checkRegular(info); err != nil {
		return err
	}
	if err := checkOwned(info, path); err != nil {
		return err
	}
	mode, others, right := info.Mode().Perm(), fs.FileMode(0o077), "600"
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid == 0 && inGroup(int(stat.Gid)) {
		others = 0o037
		if stat.Gid != 0 {
			right = "640"
		}
	}
	switch {
	case access == Secret && mode&others != 0:
		return &untrusted{fmt.Sprintf("mode %04o lets others read the key", mode), fmt.Sprintf("chmod %s %s", right, path)}
	case mode&0o022 != 0:
		return &untrusted{fmt.Sprintf("mode %04o lets others change it", mode), "chmod go-w " + path}
	}
	return nil
}

// inGroup reports whether this process is in a group.
func inGroup(id int) bool {
	all, _ := os.Getgroups() // may lack the effective group (getgroups(2))
	return id == os.Getegid() || slices.Contains(all, id)
}

// CheckOwner refuses an open file that another user owns or may write.
func CheckOwner(stat *unix.Stat_t) error {
	if id := int(stat.Uid); id != 0 && id != os.Geteuid() {
		return foreignOwner("it", id)
	}
	if stat.Mode&0o022 != 0 {
		return &untrusted{fmt.Sprintf("mode %04o lets others change it", stat.Mode&0o777), "chmod go-w"}
	}
	return nil
}

// CheckFile refuses a path that does not lead to a regular file, or leads to a file that
// another user could change or replace.
func CheckFile(path string) error {
	_, info, err := resolve(path)
	if err != nil {
		return err
	}
	return checkFile(info, path, Public)
}

// CheckDir refuses a directory in which another user could create, rename or remove a file,
// or which another user could replace.
func CheckDir(path string) error {
	real, info, err := resolve(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	case info.Mode().Perm()&0o022 != 0:
		return writableByOthers(real, info)
	}
	return nil
}

// CheckPath refuses a path that another user could redirect. It accepts a sticky directory,
// whose entries the caller must check.
func CheckPath(path string) error {
	_, _, err := resolve(path)
	return err
}

// MakeDir creates a missing directory with access for its owner only. The parent directory
// must exist, and other users must not be able to replace the new directory.
func MakeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(filepath.Clean(path))
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create %s: the parent directory is missing: %w", path, fs.ErrNotExist)
	}
	if err := CheckPath(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { // another process may have created it
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maxLinks is the kernel's limit (path_resolution(7)).
const maxLinks = 40

// resolve follows a path as the kernel does. It refuses each entry that another user could
// redirect. So no other user can change the path between resolve and the open.
func resolve(path string) (real string, info fs.FileInfo, err error) {
	whole := path
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", nil, err
		}
		whole = dir + "/" + path // not cleaned: the target of ".." depends on links
	}
	// The kernel resolves the path first: its error names the user's path. Some links below
	// /proc lead to files without a path.
	found, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	if !found.IsDir() && !found.Mode().IsRegular() {
		return "", nil, checkRegular(found)
	}
	real = "/"
	if _, err := checkEntry(real); err != nil {
		return "", nil, err
	}
	links := 0
	for rest := whole; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
		default:
			real = filepath.Join(real, name)
		}
		if info, err = checkEntry(real); err != nil {
			return "", nil, err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		if links++; links > maxLinks {
			return "", nil, &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
		}
		target, err := os.Readlink(real)
		if err != nil {
			return "", nil, err
		}
		if real = filepath.Dir(real); filepath.IsAbs(target) {
			real = "/"
		}
		rest = target + "/" + rest
	}
	if info, err = os.Lstat(real); err != nil {
		return "", nil, err
	}
	return real, info, nil
}

// checkEntry checks the owner and the mode of one entry of a path.
func checkEntry(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := checkOwned(info, path); err != nil {
		return nil, err
	}
	if info.IsDir() && info.Mode()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return nil, writableByOthers(path, info)
	}
	return info, nil
}

// checkOwned refuses a file of another user.
func checkOwned(info fs.FileInfo, path string) error {
	if id := ownerOf(info); id != 0 && id != os.Geteuid() {
		return foreignOwner(path, id)
	}
	return nil
}

// foreignOwner returns the error for a file of another user. In a user namespace the overflow
// user represents all users who are not mapped, including the host's root
// (user_namespaces(7)).
func foreignOwner(what string, user int) error {
	note := ""
	if user == overflowUser() && inUserNamespace() {
		note = " (which represents every user who is not mapped in this user namespace)"
	}
	return refusef("%s belongs to user %d%s, and this program runs as user %d: it trusts only files of root and that user", what, user, note, os.Geteuid())
}

// overflowUser returns the host's overflow user, by default 65534 (proc_sys_kernel(5)).
func overflowUser() int {
	text, _ := os.ReadFile("/proc/sys/kernel/overflowuid")
	if id, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		return id
	}
	return 65534
}

// inUserNamespace reports whether some user of the host is not mapped to itself.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func writableByOthers(path string, info fs.FileInfo) error {
	return &untrusted{fmt.Sprintf("mode %04o lets others change the content of %s", info.Mode().Perm(), path), "chmod go-w " + path}
}

// refusef returns an ErrUntrusted with a text.
func refusef(format string, args ...any) error { return &untrusted{fmt.Sprintf(format, args...), ""} }

// Remedy returns the command that fixes the cause of an [ErrUntrusted], "" if there is none.
func Remedy(err error) string {
	if u, ok := errors.AsType[*untrusted](err); ok {
		return u.remedy
	}
	return ""
}

type untrusted struct{ text, remedy string }

// Error returns the text, and the command that fixes the cause.
func (u *untrusted) Error() string {
	if u.remedy == "" {
		return u.text
	}
	return u.text + ": run " + u.remedy
}

// Is reports whether target is ErrUntrusted.
func (u *untrusted) Is(target error) bool { return target == ErrUntrusted }
