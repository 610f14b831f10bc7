// Package lockfile keeps two processes from using the same file or name at the same time. The
// kernel's locks end with the process that has them (flock(2), F_OFD_SETLK(2const)).
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

// HeldError is the error if another process has a lock.
type HeldError struct {
	Path string // the locked path
	PID  int    // 0 if unknown
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

// LockFile locks a regular file. It returns a nil Lock for a pipe or a device, and for a file on a
// file system without such locks. NFS locks only files that the process may write (flock(2),
// EBADF).
func LockFile(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		if err = flock(f); err == nil {
			return &Lock{f}, nil
		}
	}
	if isUnsupported(err) {
		err = nil
	}
	return nil, errors.Join(err, f.Close())
}

// isUnsupported reports whether an error of flock means that the file system has no such locks:
// EBADF of NFS, ENOLCK of NFS without a lock manager, EOPNOTSUPP and ENOSYS of FUSE.
func isUnsupported(err error) bool {
	return slices.ContainsFunc([]error{unix.EBADF, unix.ENOLCK, unix.EOPNOTSUPP, unix.ENOSYS}, func(no error) bool { return errors.Is(err, no) })
}

// flock locks an open file. It does not wait.
func flock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return &HeldError{f.Name(), Holder(f.Name())}
	case err != nil:
		return fmt.Errorf("flock %s: %w", f.Name(), err)
	}
	return nil
}

// LockName locks a path that may not exist, or whose file may be replaced while it is in use. It
// locks a byte of the directory, whose offset depends on the name, and creates no file. It returns
// a nil Lock if the file system has no such locks for directories, as NFS.
//
// A directory cannot be opened for writing, so it accepts only shared locks (F_OFD_SETLK(2const)).
// F_OFD_GETLK for an exclusive lock, which it does not place, shows whether another process has a
// shared lock too. Two processes that lock at the same time may see each other: then both unlock
// and retry.
func LockName(path string) (*Lock, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	at := nameOffset(filepath.Base(path))
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
		if try == maxTries {
			held := &HeldError{path, findLocker(dir, at)}
			return nil, errors.Join(held, dir.Close())
		}
		mine.Type = unix.F_UNLCK
		if err := unix.FcntlFlock(dir.Fd(), unix.F_OFD_SETLK, &mine); err != nil {
			return nil, errors.Join(err, dir.Close())
		}
		time.Sleep(rand.N(10 * time.Millisecond))
	}
}

// maxTries is how often LockName retries before it reports the other process.
const maxTries = 5

// nameOffset returns the offset of the byte that LockName locks for a name.
func nameOffset(base string) int64 {
	sum := sha256.Sum256([]byte(base))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2) // an offset is positive, and so is its end
}

// Release ends the lock. It does nothing for a nil Lock.
func (l *Lock) Release() error {
	if l == nil {
		return nil
	}
	return l.file.Close()
}

// Holder returns the process that has locked a file or, if none is known, a process that has it
// open. It returns 0 if it finds none.
func Holder(path string) int { return Holders(path)[path] }

// Holders returns the holders of several files, by path. It omits files without a holder.
func Holders(paths ...string) map[string]int {
	found, wanted, locked := map[string]int{}, map[inode]string{}, listLockers()
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

// lockID returns the name of a file in the kernel's list of locks. Some file systems, as overlay
// and btrfs, have other numbers there than in stat(2).
func lockID(file *unix.Stat_t) string {
	return fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(file.Dev)), unix.Minor(uint64(file.Dev)), file.Ino)
}

// listLockers returns the processes in the kernel's list of locks, by lockID (proc_locks(5)).
// Processes of another PID namespace have no number above 0.
func listLockers() map[string]int {
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

// openFiles returns the open files of the processes that this user may inspect (proc_pid_fd(5)).
func openFiles() iter.Seq[openFile] {
	return func(yield func(openFile) bool) {
		processes, _ := filepath.Glob("/proc/[0-9]*/fd")
		for _, dir := range processes {
			pid, err := strconv.Atoi(strings.Split(dir, "/")[2])
			if err != nil {
				continue
			}
			descriptors, _ := os.ReadDir(dir) // fails if this user may not read it, or the process has ended
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

// findLocker returns the process that has locked a byte of a file by another descriptor than f
// (proc_pid_fdinfo(5)), 0 if there is none.
func findLocker(f *os.File, at int64) int {
	var mine unix.Stat_t
	if unix.Fstat(int(f.Fd()), &mine) != nil {
		return 0
	}
	self := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	for file := range openFiles() {
		if file.inode == inodeOf(&mine) && file.link != self && isLocked(strings.Replace(file.link, "/fd/", "/fdinfo/", 1), at) {
			return file.pid
		}
	}
	return 0
}

// isLocked reports whether an open file has a lock of a byte.
func isLocked(fdinfo string, at int64) bool {
	text, _ := os.ReadFile(fdinfo)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == "lock:" && f[len(f)-2] == strconv.FormatInt(at, 10) {
			return true
		}
	}
	return false
}
