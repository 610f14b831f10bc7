package vfio

import (
	"fmt"
	"sync"
)

// owned holds the devices and groups that this process has open. The kernel opens a group once
// ("group->opened_file", EBUSY), and a device several times; but a device's state must have one
// owner.
type owned struct {
	mu      sync.Mutex
	devices map[string]string // key: sysfs directory; value: the name that the device was opened by
	groups  map[string]*group // key: device node
}

func newOwned() *owned { return &owned{devices: map[string]string{}, groups: map[string]*group{}} }

// group is an open IOMMU group, in a container of its own.
type group struct {
	fd, container int
	devices       int // number of devices of this process that use it
}

// claim makes name the only owner of the device with the sysfs directory dir, until release. It
// fails with ErrBusy. If dir is "", the device is unknown and claim checks nothing.
func (o *owned) claim(dir, name string) (release func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if other, taken := o.devices[dir]; taken {
		return nil, withHint(fmt.Errorf("%w: this process has it open as %s", ErrBusy, other), "name every device once")
	}
	o.devices[dir] = name
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.devices, dir)
	}, nil
}

// acquireGroup returns the open group of a node, which it opens by open if this process has not
// opened it yet. Concurrent callers wait.
func (o *owned) acquireGroup(node string, open func() (*group, error)) (*group, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.groups[node]
	if g == nil {
		var err error
		if g, err = open(); err != nil {
			return nil, err
		}
		o.groups[node] = g
	}
	g.devices++
	return g, nil
}

// releaseGroup closes a group if the last device that used it is closed.
func (o *owned) releaseGroup(k kernel, node string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.groups[node]
	if g.devices--; g.devices == 0 {
		k.close(g.fd)
		k.close(g.container)
		delete(o.groups, node)
	}
}
