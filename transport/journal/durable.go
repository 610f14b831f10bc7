package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// volatile are file systems whose files do not outlive the host, or of which that
// is not known: an overlay may lie on any of them.
var volatile = map[int64]string{
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

// Check makes the folder where it is missing, for its owner alone, and checks that
// files can be made there and stay, unless the file system may be a volatile one.
func Check(dir string, allow bool) error {
	thisBoot()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		err := os.MkdirAll(dir, 0o700)
		if err == nil {
			err = syncDir(filepath.Dir(filepath.Clean(dir)))
		}
		if err != nil {
			return fmt.Errorf("state folder: %w", err)
		}
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

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
