// Package safefile reads small files and uses directories that decide whom a program
// trusts: keys, certificates, lists of peers, journals. It refuses those that another
// user could change. Root may own what a service user reads.
//
// A file can also be exchanged by a user who may write one of the directories on the way
// to it. So every directory and every symbolic link on the way has to belong to root or
// to this user, and no other user may write the directories. A sticky directory, as /tmp
// is one, may be written by all: only the owner of an entry can rename or remove it there
// (chmod(2), S_ISVTX).
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

// ErrUntrusted says that a user who is neither root nor this one could change a file, or
// read a secret one.
var ErrUntrusted = errors.New("other users have too much access")

// Access says which access other users may have to a file.
type Access int

const (
	// Public files may be read by all users.
	Public Access = iota
	// Secret files may be read by their owner alone. One that root owns may be read by a
	// group too, if this process is in it: that is how Kubernetes (fsGroup) and libvirt
	// give a key to a service.
	Secret
)

// Read returns what a regular file of at most most bytes holds. It follows symbolic
// links, and waits for nothing: a FIFO or a device is refused. An error with
// fs.ErrNotExist says that there is no such file.
func Read(path string, most int64, access Access) ([]byte, error) {
	return ReadBy(Open, path, most, access)
}

// Open opens a file for reading. It does not wait for the other end of a FIFO.
func Open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// ReadBy is Read for a process that may not open the file itself: open does, as [Open]
// would.
func ReadBy(open func(path string) (*os.File, error), path string, most int64, access Access) ([]byte, error) {
	_, info, err := resolve(path)
	if err == nil {
		err = regular(info) // before it is opened: opening a device may have effects
	}
	if err != nil {
		return nil, err
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil { // those of the file that is read
		err = check(info, path, access)
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

func regular(info fs.FileInfo) error {
	if mode := info.Mode(); !mode.IsRegular() {
		return fmt.Errorf("not a regular file (%v)", mode.Type())
	}
	return nil
}

// check judges a file by its owner and its mode.
func check(info fs.FileInfo, path string, access Access) error {
	if err := regular(info); err != nil {
		return err
	}
	if err := owned(info, path); err != nil {
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
	all, _ := os.Getgroups() // which need not name the effective one (getgroups(2))
	return id == os.Getegid() || slices.Contains(all, id)
}

// CheckOwner refuses an open file that another user owns or may write.
func CheckOwner(stat *unix.Stat_t) error {
	if id := int(stat.Uid); id != 0 && id != os.Geteuid() {
		return foreign("it", id)
	}
	if stat.Mode&0o022 != 0 {
		return &untrusted{fmt.Sprintf("mode %04o lets others change it", stat.Mode&0o777), "chmod go-w"}
	}
	return nil
}

// CheckFile refuses a path that leads to no regular file, or to one that another user could
// change or exchange.
func CheckFile(path string) error {
	_, info, err := resolve(path)
	if err != nil {
		return err
	}
	return check(info, path, Public)
}

// CheckDir refuses a directory in which another user could make, rename or remove a file,
// or which another user could replace.
func CheckDir(path string) error {
	real, info, err := resolve(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	case info.Mode().Perm()&0o022 != 0:
		return writable(real, info)
	}
	return nil
}

// CheckPath refuses a path that another user could make lead elsewhere. What is in a
// sticky directory it leaves to the one who makes a file there.
func CheckPath(path string) error {
	_, _, err := resolve(path)
	return err
}

// MakeDir makes a directory where it is missing, for its owner alone. The directory above
// it has to be there, and other users must not be able to replace the new one.
func MakeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(filepath.Clean(path))
	if _, err := os.Stat(above); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make %s: the directory above it is missing, and only the last one is made: %w", path, fs.ErrNotExist)
	}
	if err := CheckPath(above); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { // another process may be faster
		return err
	}
	return SyncDir(above)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maxLinks is the kernel's own limit (path_resolution(7)).
const maxLinks = 40

// resolve follows a path as the kernel does, and refuses to go where another user could
// lead it. What it has found safe, no other user can change before it is opened.
func resolve(path string) (real string, info fs.FileInfo, err error) {
	whole := path
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", nil, err
		}
		whole = dir + "/" + path // not cleaned: what ".." means depends on links
	}
	// The kernel's answer comes first: it names the path that the user knows, and some
	// links below /proc lead where no path does.
	found, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	if !found.IsDir() && !found.Mode().IsRegular() {
		return "", nil, regular(found)
	}
	real = "/"
	if _, err := step(real); err != nil {
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
		if info, err = step(real); err != nil {
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

// step judges one entry on the way.
func step(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := owned(info, path); err != nil {
		return nil, err
	}
	if info.IsDir() && info.Mode()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return nil, writable(path, info)
	}
	return info, nil
}

// owned refuses what belongs to another user.
func owned(info fs.FileInfo, path string) error {
	if id := owner(info); id != 0 && id != os.Geteuid() {
		return foreign(path, id)
	}
	return nil
}

// foreign refuses what belongs to a user. In a user namespace the overflow user stands for all
// who are not mapped there, root of the host among them (user_namespaces(7)).
func foreign(what string, user int) error {
	note := ""
	if user == overflowUser() && inUserNamespace() {
		note = " (which stands for every user who is not mapped in this user namespace)"
	}
	return refusal("%s belongs to user %d%s, and this program runs as user %d: only what root or that user owns is trusted", what, user, note, os.Geteuid())
}

// overflowUser is 65534 unless the host says otherwise (proc_sys_kernel(5)).
func overflowUser() int {
	text, _ := os.ReadFile("/proc/sys/kernel/overflowuid")
	if id, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		return id
	}
	return 65534
}

// inUserNamespace reports whether not every user of the host is mapped as itself.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}

func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func writable(path string, info fs.FileInfo) error {
	return &untrusted{fmt.Sprintf("mode %04o lets others change what is in %s", info.Mode().Perm(), path), "chmod go-w " + path}
}

// refusal is an ErrUntrusted that says more.
func refusal(format string, args ...any) error { return &untrusted{fmt.Sprintf(format, args...), ""} }

// Remedy is the command that mends what an [ErrUntrusted] is about, "" if it names none.
func Remedy(err error) string {
	if u, ok := errors.AsType[*untrusted](err); ok {
		return u.remedy
	}
	return ""
}

type untrusted struct{ text, remedy string }

// Error says what is wrong, and the command that mends it.
func (u *untrusted) Error() string {
	if u.remedy == "" {
		return u.text
	}
	return u.text + ": run " + u.remedy
}

// Is makes it an ErrUntrusted.
func (u *untrusted) Is(target error) bool { return target == ErrUntrusted }
