package vfio

import (
	"os"
	"sync"
)

// descriptor is an fd that calls share. It is closed when the last call that
// uses it has returned. A close under a blocked read would not wake the read,
// and the kernel could give the number to another file meanwhile.
type descriptor struct {
	kernel
	mu     sync.Mutex
	fd     int
	users  int
	closed bool

	onClose func() // called after the fd was closed, to release what it needed; may be nil
}

// acquire returns the fd, which stays open until release. It fails with
// os.ErrClosed.
func (d *descriptor) acquire() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return -1, os.ErrClosed
	}
	d.users++
	return d.fd, nil
}

func (d *descriptor) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users--
	d.closeUnused()
}

// closeWhenUnused closes the fd now, or when its last user releases it.
func (d *descriptor) closeWhenUnused() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	d.closeUnused()
}

func (d *descriptor) closeUnused() {
	if d.closed && d.users == 0 {
		d.kernel.close(d.fd)
		if d.onClose != nil {
			d.onClose()
		}
	}
}

// call runs one ioctl on the fd.
func (d *descriptor) call(req uint32, arg any) error {
	fd, err := d.acquire()
	if err != nil {
		return err
	}
	defer d.release()
	_, err = d.ioctl(fd, req, arg)
	return err
}
