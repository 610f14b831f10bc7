package reader

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
)

// fleet is the set of source devices and their sessions. Its methods block where the drivers block,
// and run one at a time.
type fleet struct {
	devices []*device
	each    func(n int, do func(i int) error) error // runs do for 0 to n-1 at once, and joins them

	mu      sync.Mutex
	wayBack bool // the way back has begun: no device leaves RUNNING from now on
}

func newFleet(devices []*device) *fleet { return &fleet{devices: devices, each: tasks.Parallel} }

// sources are the devices as the caller gave them.
func (f *fleet) sources() []Source {
	all := make([]Source, len(f.devices))
	for i, d := range f.devices {
		all[i] = d.Source
	}
	return all
}

// deviceError is a failure of one device.
type deviceError struct {
	device int
	err    error
}

func (e *deviceError) Error() string { return e.err.Error() }
func (e *deviceError) Unwrap() error { return e.err }

// enter makes the moves, all at once, and returns when every device has reached its state: the
// barrier. It makes no moves after the way back has begun.
func (f *fleet) enter(moves []plan.Move) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wayBack {
		return nil
	}
	return f.each(len(moves), func(i int) error { return f.setState(moves[i].Device, moves[i].To) })
}

func (f *fleet) setState(device int, to vfio.State) error {
	d := f.devices[device]
	opens := to.Saving() && d.stream == nil
	stream, err := vfio.Enter(d.Device, to, opens)
	if err != nil {
		return &deviceError{device, err}
	}
	if opens {
		d.stream = stream
	}
	return nil
}

// maxTries is how often a device is asked to take a step of the way back.
const maxTries = 2

// halt moves the devices from STOP_COPY to STOP: from there they may run, and that move starts
// none. If some run, no last END was sent of their state, and halt moves no device. Later moves are
// not made.
func (f *fleet) halt() (again []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wayBack = true
	if f.anyRuns() {
		return nil, nil
	}
	return f.enterEach(func(int) bool { return true }, vfio.Stop)
}

// resume returns every device to RUNNING, in vfio.RunOrder. With whole it stops at the first step
// that fails, as long as no device runs: then the destination may run its copy. Without whole a
// device that cannot run holds up no other: every device needs an owner that answers.
//
// again names the devices that needed a second try.
func (f *fleet) resume(whole bool) (again []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wayBack = true
	for _, step := range vfio.RunOrder() {
		late, failed := f.enterEach(func(i int) bool { return f.devices[i].Device.Features().P2P == step.P2P }, step.To)
		again, err = append(again, late...), errors.Join(err, failed)
		if whole && failed != nil && !f.anyRuns() {
			return again, err
		}
	}
	if err != nil && f.allRun() { // by a later step
		again, err = append(again, err.Error()), nil
	}
	return again, err
}

// classifyReturn is the result of a way back, by the states of the devices.
func (f *fleet) classifyReturn(err error) handoff.Return {
	switch {
	case err == nil:
		return handoff.Back
	case f.allStopped():
		return handoff.NoneRan
	}
	return handoff.SomeRan
}

// enterEach moves some of the devices to a state, with maxTries each.
func (f *fleet) enterEach(which func(i int) bool, to vfio.State) (again []string, err error) {
	late := make([]error, len(f.devices))
	err = f.each(len(f.devices), func(i int) (err error) {
		if !which(i) {
			return nil
		}
		for range maxTries {
			if err = f.returnTo(i, to); err == nil {
				return nil
			}
			late[i] = err
		}
		return err
	})
	for i, first := range late {
		if first != nil && err == nil {
			again = append(again, fmt.Sprintf("device %s needed a second try: %v", f.devices[i].Name, first))
		}
	}
	return again, err
}

// allRun reports whether every device is in RUNNING.
func (f *fleet) allRun() bool { return allRunning(f.sources()) }

// anyRuns reports whether some device runs, in any running state.
func (f *fleet) anyRuns() bool {
	return slices.ContainsFunc(f.devices, func(d *device) bool {
		now, err := d.Device.State()
		return err == nil && slices.Contains([]vfio.State{vfio.Running, vfio.RunningP2P, vfio.PreCopy, vfio.PreCopyP2P}, now)
	})
}

// allStopped reports whether every device is in STOP or STOP_COPY.
func (f *fleet) allStopped() bool { return allStopped(f.sources()) }

func (f *fleet) returnTo(device int, to vfio.State) error {
	now, err := f.devices[device].Device.State()
	if err != nil {
		return &deviceError{device, err}
	}
	initiates := now == vfio.Running || now == vfio.PreCopy
	if now == to || to == vfio.RunningP2P && initiates {
		return nil
	}
	return f.setState(device, to)
}

// release ends the sessions of devices that now run at the destination, and leaves the devices in
// STOP. It can be slow, and comes after the downtime.
func (f *fleet) release() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.each(len(f.devices), func(i int) error { return f.setState(i, vfio.Stop) })
}

// closeStreams closes the sessions' streams. No goroutine may be reading them.
func (f *fleet) closeStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.devices {
		if d.stream != nil {
			d.stream.Close()
			d.stream = nil
		}
	}
}

// stream is the open session of a device, or nil.
func (f *fleet) stream(device int) vfio.Stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.devices[device].stream
}

// faultOf names the device in an error, and the offset of its stream.
func (f *fleet) faultOf(err error) *transport.Fault {
	fault := &transport.Fault{Code: transport.CodeDevice, Err: err}
	if de, ok := errors.AsType[*deviceError](err); ok {
		d := f.devices[de.device]
		fault.Device, fault.Offset = d.Name, d.bytesRead()
	}
	if errors.Is(err, vfio.ErrBusy) || errors.Is(err, vfio.ErrNoMigration) {
		fault.Code = transport.CodeBusy
	}
	return fault
}

// states asks every device for its state, for the report.
func (f *fleet) states() []string {
	out := make([]string, len(f.devices))
	for i, d := range f.devices {
		now, err := d.Device.State()
		out[i] = now.String()
		if err != nil {
			out[i] = fmt.Sprintf("unknown: %v", err)
		}
	}
	return out
}

func allRunning(sources []Source) bool {
	return !slices.ContainsFunc(sources, func(s Source) bool {
		now, err := s.Device.State()
		return err != nil || now != vfio.Running
	})
}

// allStopped reports whether every device is in a state that COMMIT left it in. That needs another
// process that holds the devices open.
func allStopped(sources []Source) bool {
	return !slices.ContainsFunc(sources, func(s Source) bool {
		now, err := s.Device.State()
		return err != nil || now != vfio.StopCopy && now != vfio.Stop
	})
}
