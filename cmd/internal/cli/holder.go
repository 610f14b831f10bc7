package cli

import (
	"errors"
	"fmt"

	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// workedOn is why nobody can decide a migration yet: a program may still do so.
type workedOn struct {
	program string
	mig     migration.ID
	pid     int // 0 where that is not known
}

func (w *workedOn) Error() string {
	return fmt.Sprintf("%s works on migration %v%s: it may yet hear from the other side", w.program, w.mig, w.process())
}

func (w *workedOn) process() string {
	if w.pid == 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d)", w.pid)
}

func (w *workedOn) hint() string {
	return endFirst(w.pid)
}

// endFirst is the hint where a process is in the way.
func endFirst(pid int) string {
	if pid == 0 {
		return "end that process first, and keep its supervisor from starting another"
	}
	return fmt.Sprintf("end it first: kill %d, or systemctl stop its unit, which would start another", pid)
}

// claim keeps other processes away from what a device is on this host, where the kernel does
// not: nil for a device that the kernel gives to one process only, or that ends with this one.
//
// A file: sink gets its name at the end, and the file of a kept sim: device is replaced at each
// change, so that their names are locked. A file: source is locked itself: two processes would
// send the right to run to two places.
func (d device) claim(r role) (lock *lockfile.Lock, err error) {
	switch {
	case d.keep() != "":
		lock, err = lockfile.Name(d.keep())
	case d.scheme == "file" && r == sink:
		path, _, bad := file.ParseSink(d.rest)
		if bad != nil {
			return nil, bad
		}
		lock, err = lockfile.Name(path)
	case d.scheme == "file":
		lock, err = lockfile.On(d.rest)
	}
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return nil, fmt.Errorf("%w: %w", vfio.ErrBusy, held)
	}
	return lock, err
}
