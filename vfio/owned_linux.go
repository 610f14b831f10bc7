package vfio

import (
	"fmt"
	"sync"
)

// owned is what this process has open. The kernel lets a group be opened once ("group->opened_file",
// EBUSY), and a device several times; but a device's state must have one owner.
type owned struct {
	mu      sync.Mutex
	devices map[string]string // the names they were opened by, by sysfs folder
	groups  map[string]*group // by node
}

func newOwned() *owned { return &owned{devices: map[string]string{}, groups: map[string]*group{}} }

// group is an IOMMU group that is open, in a container of its own.
type group struct {
	fd, container int
	devices       int // how many devices of this process need it
}

// claim makes name the one owner of a device until release. The device of "" is not known, and
// the kernel has to tell whether it is in use.
func (o *owned) claim(dir, name string) (release func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if other, taken := o.devices[dir]; taken {
		return nil, hinted(fmt.Errorf("%w: this process has it open as %s", ErrBusy, other), "name every device once")
	}
	o.devices[dir] = name
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.devices, dir)
	}, nil
}

// enter gives a group that is open, or that open opens. Others wait for it meanwhile.
func (o *owned) enter(node string, open func() (*group, error)) (*group, error) {
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

// leave closes a group with the last device that needs it.
func (o *owned) leave(k kernel, node string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.groups[node]
	if g.devices--; g.devices == 0 {
		k.close(g.fd)
		k.close(g.container)
		delete(o.groups, node)
	}
}
