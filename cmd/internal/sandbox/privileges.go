package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Capability is one of capabilities(7).
type Capability cap.Value

// Those that a run may need after everything is open.
const (
	DACOverride = Capability(cap.DAC_OVERRIDE) // files in directories of another user
	NetAdmin    = Capability(cap.NET_ADMIN)    // socket buffers above net.core.rmem_max
	SysResource = Capability(cap.SYS_RESOURCE) // pipes beyond pipe-user-pages-soft
)

// String is the kernel's name without its prefix.
func (c Capability) String() string { return strings.TrimPrefix(cap.Value(c).String(), "cap_") }

// dropPrivileges drops, for good and on every thread, all capabilities but those of the
// argument, and every way to gain one: it empties the ambient and the inheritable set, cuts the
// bounding set, and sets no_new_privs. It returns the capabilities that remain. An unprivileged
// process has none, and may not cut its bounding set, which then has no effect.
func dropPrivileges(keep ...Capability) (left []Capability, err error) {
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := cap.ResetAmbient(); err != nil && !errors.Is(err, unix.EINVAL) { // before Linux 4.3
		return nil, fmt.Errorf("empty the ambient set: %w", err)
	}
	had, next := cap.GetProc(), cap.NewSet()
	var drop []cap.Value
	for v := range cap.MaxBits() {
		if !slices.Contains(keep, Capability(v)) {
			drop = append(drop, v)
			continue
		}
		has, err := had.GetFlag(cap.Permitted, v)
		if err == nil && has {
			left = append(left, Capability(v))
			err = errors.Join(next.SetFlag(cap.Permitted, true, v), next.SetFlag(cap.Effective, true, v))
		}
		if err != nil {
			return nil, fmt.Errorf("capability %v: %w", v, err)
		}
	}
	if err := cap.DropBound(drop...); err != nil && !errors.Is(err, unix.EPERM) { // without CAP_SETPCAP
		return nil, fmt.Errorf("cut the bounding set: %w", err)
	}
	if err := next.SetProc(); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	return left, nil
}

// Writable reports whether the owner and the mode of a directory, and of those on the way to
// it, let this user make and remove files there: without capabilities.
func Writable(dir string) bool { return reachable(dir, 0o3) }

// Searchable reports the same about opening the files of the directory by name.
func Searchable(dir string) bool { return reachable(dir, 0o1) }

func reachable(dir string, need fs.FileMode) bool {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	for ; err == nil; need = 0o1 {
		var info fs.FileInfo
		if info, err = os.Stat(dir); err == nil && !allows(info, need) {
			return false
		}
		if dir == "/" {
			return true
		}
		dir = filepath.Dir(dir)
	}
	return false
}

// allows looks at the class of the mode that counts for this user (path_resolution(7)).
func allows(info fs.FileInfo, need fs.FileMode) bool {
	stat, mode := info.Sys().(*syscall.Stat_t), info.Mode().Perm()
	groups, _ := os.Getgroups()
	switch {
	case int(stat.Uid) == os.Geteuid():
		mode >>= 6
	case int(stat.Gid) == os.Getegid() || slices.Contains(groups, int(stat.Gid)):
		mode >>= 3
	}
	return mode&need == need
}
