package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

// none is the reply of a call without a result.
type none = struct{}

// guest has the methods the host calls. Its maps are keyed by handles.
type guest struct {
	mu        sync.Mutex
	last      int // the last handle
	processes map[int]*process
	devices   map[int]*device
}

func newGuest() *guest {
	return &guest{processes: make(map[int]*process), devices: make(map[int]*device)}
}

// lookup finds the object of a handle.
func lookup[T any](g *guest, from map[int]T, handle int) (T, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v, ok := from[handle]
	if !ok {
		return v, fmt.Errorf("no %T has handle %d", v, handle)
	}
	return v, nil
}

// keep stores v under a new handle.
func keep[T any](g *guest, in map[int]T, v T) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	in[g.last] = v
	return g.last
}

// Start starts a program and replies with its handle.
func (g *guest) Start(c *guestapi.Command, handle *int) error {
	var files []*os.File
	for _, h := range c.Files {
		d, err := lookup(g, g.devices, h)
		if err != nil {
			return err
		}
		files = append(files, d.file)
	}
	p, err := start(c, files)
	if err != nil {
		return err
	}
	*handle = keep(g, g.processes, p)
	return nil
}

// Wait waits for the end of a program, at most for a while.
func (g *guest) Wait(w *guestapi.Wait, r *guestapi.Result) error {
	p, err := lookup(g, g.processes, w.Process)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(w.Timeout):
	}
	*r = p.result()
	if w.Brief {
		r.Stdout, r.Stderr = "", ""
	}
	return nil
}

// Signal sends a signal to a program.
func (g *guest) Signal(s *guestapi.Signal, _ *none) error {
	p, err := lookup(g, g.processes, s.Process)
	if err != nil {
		return err
	}
	return p.cmd.Process.Signal(syscall.Signal(s.Signal))
}

// ReadFile replies with a file's content.
func (g *guest) ReadFile(path string, data *[]byte) (err error) {
	*data, err = os.ReadFile(path)
	return err
}

// WriteFile writes a file, or a sysfs attribute.
func (g *guest) WriteFile(f *guestapi.File, _ *none) error {
	return os.WriteFile(f.Path, f.Data, 0o644)
}

// Glob replies with the names that match a pattern.
func (g *guest) Glob(pattern string, names *[]string) error {
	found, err := filepath.Glob(pattern)
	*names = append([]string{}, found...) // the codec treats null as no answer
	return err
}

// Open opens a device as a VMM would and replies with its handle. The name is
// an mdev's UUID, opened through its group, or the path of a cdev.
func (g *guest) Open(name string, handle *int) error {
	d, err := openDevice(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	*handle = keep(g, g.devices, d)
	return nil
}

// Take duplicates the open device of a program, as a rescuer would, and replies with its
// handle.
func (g *guest) Take(pid int, handle *int) error {
	d, err := takeDevice(pid)
	if err != nil {
		return fmt.Errorf("take the device of process %d: %w", pid, err)
	}
	*handle = keep(g, g.devices, d)
	return nil
}

// Close closes a device.
func (g *guest) Close(handle int, _ *none) error {
	d, err := lookup(g, g.devices, handle)
	if err != nil {
		return err
	}
	g.mu.Lock()
	delete(g.devices, handle)
	g.mu.Unlock()
	d.close()
	return nil
}

// State replies with a held device's migration state.
func (g *guest) State(handle int, state *uint32) error {
	d, err := lookup(g, g.devices, handle)
	if err != nil {
		return err
	}
	*state, err = d.state()
	return err
}

// SetState moves a held device to a migration state.
func (g *guest) SetState(s *guestapi.SetState, _ *none) error {
	d, err := lookup(g, g.devices, s.Device)
	if err != nil {
		return err
	}
	return d.setState(s.State)
}

// Reset resets a held device.
func (g *guest) Reset(handle int, _ *none) error {
	d, err := lookup(g, g.devices, handle)
	if err != nil {
		return err
	}
	return d.reset()
}

// ReadRegion reads a held device's registers.
func (g *guest) ReadRegion(r *guestapi.Region, data *[]byte) error {
	d, err := lookup(g, g.devices, r.Device)
	if err != nil {
		return err
	}
	*data = make([]byte, r.N)
	return d.region(r.Index, r.Offset, *data, readAt)
}

// WriteRegion writes a held device's registers.
func (g *guest) WriteRegion(r *guestapi.Region, _ *none) error {
	d, err := lookup(g, g.devices, r.Device)
	if err != nil {
		return err
	}
	return d.region(r.Index, r.Offset, r.Data, writeAt)
}

// PowerOff ends the machine, after the reply has left.
func (g *guest) PowerOff(_ none, _ *none) error {
	time.AfterFunc(100*time.Millisecond, powerOff)
	return nil
}
