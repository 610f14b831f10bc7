// Package lockfile keeps two processes from using one thing at the same time. The locks are
// the kernel's: they end with the process that has them, however it ends (flock(2),
// F_OFD_SETLK(2const)).
package lockfile

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HeldError says that another process has a lock.
type HeldError struct {
	Path string // that is locked
	PID  int    // 0 where it is not known
}

// Error names the process, if it is known, and the path.
func (e *HeldError) Error() string {
	if e.PID == 0 {
		return "another process has locked " + e.Path
	}
	return fmt.Sprintf("process %d has locked %s", e.PID, e.Path)
}

// Lock is a lock on a path.
type Lock struct{ file *os.File }

// On locks a regular file, and nothing else: the lock is nil for a pipe or a device, and for a
// file on a file system that has no such locks. NFS is one: it locks for one process only what
// that may write (flock(2), EBADF).
func On(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		if err = take(f); err == nil {
			return &Lock{f}, nil
		}
	}
	if noLocks(err) {
		err = nil
	}
	return nil, errors.Join(err, f.Close())
}

// noLocks reports whether an error of flock says that the file system has no such locks:
// EBADF of NFS, ENOLCK of NFS without a lock manager, EOPNOTSUPP and ENOSYS of FUSE.
func noLocks(err error) bool {
	return slices.ContainsFunc([]error{unix.EBADF, unix.ENOLCK, unix.EOPNOTSUPP, unix.ENOSYS}, func(no error) bool { return errors.Is(err, no) })
}

// take locks an open file. It waits for nothing.
func take(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return &HeldError{f.Name(), Holder(f.Name())}
	case err != nil:
		return fmt.Errorf("flock %s: %w", f.Name(), err)
	}
	return nil
}

// Name locks a path that may not exist, or whose file is replaced while it is in use. The lock
// is on the directory, where a byte stands for each name, and makes no file. It is nil where
// the file system has no such locks for directories, as NFS.
//
// A directory cannot be opened for writing, and so takes no more than a shared lock
// (F_OFD_SETLK(2const)). Whether another process has one too, the kernel tells of all the same:
// F_OFD_GETLK asks for an exclusive lock and places none. Two that come at the same time may
// see each other: both let go then, and try again.
func Name(path string) (*Lock, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	at := byteOf(filepath.Base(path))
	for try := 0; ; try++ {
		mine := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: at, Len: 1}
		if err := unix.FcntlFlock(dir.Fd(), unix.F_OFD_SETLK, &mine); err != nil {
			return nil, dir.Close()
		}
		other := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
		if err := unix.FcntlFlock(dir.Fd(), unix.F_OFD_GETLK, &other); err != nil {
			return nil, errors.Join(err, dir.Close())
		}
		if other.Type == unix.F_UNLCK {
			return &Lock{dir}, nil
		}
		if try == tries {
			held := &HeldError{path, opener(dir, at)}
			return nil, errors.Join(held, dir.Close())
		}
		mine.Type = unix.F_UNLCK
		if err := unix.FcntlFlock(dir.Fd(), unix.F_OFD_SETLK, &mine); err != nil {
			return nil, errors.Join(err, dir.Close())
		}
		time.Sleep(rand.N(10 * time.Millisecond))
	}
}

// tries is how often Name comes again before it takes the other process for one that stays.
const tries = 5

// byteOf is the offset that stands for a name in its directory.
func byteOf(base string) int64 {
	sum := sha256.Sum256([]byte(base))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2) // an offset is positive, and so is its end
}

// Release ends the lock. It does nothing on nil.
func (l *Lock) Release() error {
	if l == nil {
		return nil
	}
	return l.file.Close()
}

// Holder is the process that has locked a file or, if that is not known, has it open. It is 0
// where that cannot be found out.
func Holder(path string) int { return Holders(path)[path] }

// Holders are the holders of several files, by path. One that has none is left out.
func Holders(paths ...string) map[string]int {
	found, wanted, locked := map[string]int{}, map[inode]string{}, lockers()
	for _, path := range paths {
		var file unix.Stat_t
		if unix.Stat(path, &file) != nil {
			continue
		}
		if pid := locked[lockID(&file)]; pid > 0 {
			found[path] = pid
			continue
		}
		wanted[inodeOf(&file)] = path
	}
	if len(wanted) == 0 {
		return found
	}
	for file := range openFiles() {
		if path, ok := wanted[file.inode]; ok && file.pid != os.Getpid() {
			found[path] = file.pid
		}
	}
	return found
}

// inode names a file by its numbers.
type inode struct{ dev, ino uint64 }

func inodeOf(file *unix.Stat_t) inode { return inode{uint64(file.Dev), file.Ino} }

// lockID is how the kernel's list of locks names a file. Some file systems, as overlay and
// btrfs, have other numbers there than in stat(2).
func lockID(file *unix.Stat_t) string {
	return fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(file.Dev)), unix.Minor(uint64(file.Dev)), file.Ino)
}

// lockers are the processes in the kernel's list of locks, by lockID (proc_locks(5)). Those of
// another PID namespace have no number above 0.
func lockers() map[string]int {
	found := map[string]int{}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return found
	}
	defer locks.Close()
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 5 && f[1] == "FLOCK" {
			found[f[5]], _ = strconv.Atoi(f[4])
		}
	}
	return found
}

// openFile is a file that a process has open.
type openFile struct {
	inode
	pid  int
	link string // the descriptor, in /proc
}

// openFiles are those of the processes that this user may look at (proc_pid_fd(5)).
func openFiles() iter.Seq[openFile] {
	return func(yield func(openFile) bool) {
		processes, _ := filepath.Glob("/proc/[0-9]*/fd")
		for _, dir := range processes {
			pid, err := strconv.Atoi(strings.Split(dir, "/")[2])
			if err != nil {
				continue
			}
			descriptors, _ := os.ReadDir(dir) // not ours to look at, or gone
			for _, fd := range descriptors {
				var file unix.Stat_t
				link := filepath.Join(dir, fd.Name())
				if unix.Stat(link, &file) == nil && !yield(openFile{inodeOf(&file), pid, link}) {
					return
				}
			}
		}
	}
}

// opener is the process that has a byte of a file locked by another descriptor than f
// (proc_pid_fdinfo(5)), 0 if there is none.
func opener(f *os.File, at int64) int {
	var mine unix.Stat_t
	if unix.Fstat(int(f.Fd()), &mine) != nil {
		return 0
	}
	self := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	for file := range openFiles() {
		if file.inode == inodeOf(&mine) && file.link != self && locks(strings.Replace(file.link, "/fd/", "/fdinfo/", 1), at) {
			return file.pid
		}
	}
	return 0
}

// locks reports whether a byte is locked by an open file.
func locks(fdinfo string, at int64) bool {
	text, _ := os.ReadFile(fdinfo)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == "lock:" && f[len(f)-2] == strconv.FormatInt(at, 10) {
			return true
		}
	}
	return false
}
