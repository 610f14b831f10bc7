package input

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// Opened is a device that is ready to migrate.
type Opened struct {
	Name string
	vfio.Device
	Ours      bool   // its state ends when this process closes it
	Lent      bool   // by another process, which has it open, too: a process before this one may have used it
	Directory string // where it still makes files, "" for nowhere
	claim     *lockfile.Lock
}

// Close implements [vfio.Device]. Another process may use what the device is after that.
func (o Opened) Close() error { return errors.Join(o.Device.Close(), o.claim.Release()) }

// OpenAll opens every device or none.
func OpenAll(specs []Device, r journal.Role) ([]Opened, error) {
	var list []Opened
	for _, d := range specs {
		o, err := d.take(r)
		if err != nil {
			for _, o := range list {
				o.Close()
			}
			return nil, ui.DeviceFault(d.Name, err)
		}
		list = append(list, o)
	}
	return list, nil
}

// take opens a device that no other process uses. Other faults of its path are reported by the
// open, which has better words than the lock.
func (d Device) take(r journal.Role) (Opened, error) {
	claim, unclaimed := d.claim(r)
	if errors.Is(unclaimed, vfio.ErrBusy) {
		return Opened{}, unclaimed
	}
	dev, err := d.open(r)
	if err != nil {
		return Opened{}, errors.Join(err, claim.Release())
	}
	if unclaimed != nil {
		return Opened{}, errors.Join(unclaimed, dev.Close())
	}
	return Opened{d.Name, dev, d.ours(), d.lent(dev), d.directory(r), claim}, nil
}

// directory is where a device that is open still makes files, "" for those that make
// none.
func (d Device) directory(r journal.Role) string {
	path := d.Keep()
	if d.Scheme == "file" && r == journal.Destination {
		path, _, _ = file.ParseDestination(d.Rest) // which check has done before
	}
	if path == "" {
		return ""
	}
	return filepath.Dir(path)
}

// claim locks the file of a device against other processes. It is nil for a device that the
// kernel gives to one process only, or that ends with this one.
//
// The file of a destination gets its name at the end, and that of a sim: with keep=PATH is
// replaced at each change: claim locks the name. It locks the file of a source itself: two
// processes would send the right to run to two destinations.
func (d Device) claim(r journal.Role) (lock *lockfile.Lock, err error) {
	switch {
	case d.Keep() != "":
		lock, err = lockfile.LockName(d.Keep())
	case d.Scheme == "file" && r == journal.Destination:
		path, _, bad := file.ParseDestination(d.Rest)
		if bad != nil {
			return nil, bad
		}
		lock, err = lockfile.LockName(path)
	case d.Scheme == "file":
		lock, err = lockfile.LockFile(d.Rest)
	}
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return nil, fmt.Errorf("%w: %w", vfio.ErrBusy, held)
	}
	return lock, err
}
