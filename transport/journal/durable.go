package journal

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
)

// volatile are file systems whose files do not outlive the host, or of which that
// is not known: an overlay may lie on any of them.
var volatile = map[int64]string{
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

// Check makes the folder where it is missing, for its owner alone, but none above it. It
// checks that files can be made there and stay, unless the file system may be a volatile
// one, and that no other user can change them.
func Check(dir string, allow bool) error {
	thisBoot()
	if err := safefile.MakeDir(dir); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := safefile.CheckDir(dir); err != nil {
		return fmt.Errorf("state folder %s: %w", dir, err)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("state folder %s: %w", dir, err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("state folder %s: statfs: %w", dir, err)
	}
	if name, ok := volatile[int64(s.Type)]; ok && !allow {
		return fmt.Errorf("state folder %s is on %s: %w", dir, name, ErrVolatile)
	}
	return nil
}
