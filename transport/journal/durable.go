package journal

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
)

// volatile are the file systems whose files do not outlive the host, or may not: an overlay
// may lie on any file system.
var volatile = map[int64]string{
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

// Check makes the directory if it is missing, for its owner alone, but no directory above it.
// It checks that files can be made there, that no other user can change them, and, unless
// allow is set, that they outlive a restart of the host.
func Check(dir string, allow bool) error {
	thisBoot()
	if err := safefile.MakeDir(dir); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := safefile.CheckDir(dir); err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("state directory %s: statfs: %w", dir, err)
	}
	if name, ok := volatile[int64(s.Type)]; ok && !allow {
		return fmt.Errorf("state directory %s is on %s: %w", dir, name, ErrVolatile)
	}
	return nil
}
