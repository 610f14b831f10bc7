package vfio

import (
	"os"
	"sync"
)

// descriptor is an fd that calls share. It is closed when the last call that
// uses it has returned: closing it under a blocked read would not wake the
// read, and would let its number be given to another file meanwhile.
type descriptor struct {
	kernel
	mu     sync.Mutex
	fd     int
	users  int
	closed bool

	closes func() // closes what the fd needs, after the fd; may be nil
}

// acquire gives the fd until release, or fails with os.ErrClosed.
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

// shut closes the fd now or when its last user releases it.
func (d *descriptor) shut() {
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
		if d.closes != nil {
			d.closes()
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
