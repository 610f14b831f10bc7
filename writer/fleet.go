package writer

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
)

// fleet is the set of destination devices and their sessions. Its methods block where the drivers
// block, and run one at a time.
type fleet struct {
	devices []*device                               // as the caller gave them; the engine has them in HELLO's order
	each    func(n int, do func(i int) error) error // runs do for 0 to n-1 at once, and joins them
	warn    func(error)                             // reports a device's mistake that fails no step
	session string                                  // the id under which the devices persist their state, "" if they do not

	mu      sync.Mutex
	lost    bool // a copy was lost before the start
	adopted bool // an earlier process has used the devices, and may have started some
}

func newFleet(targets []Target) *fleet {
	return &fleet{devices: newDevices(targets), each: tasks.Parallel}
}

// inOrder returns the devices in HELLO's order, each with its offer.
func (f *fleet) inOrder(offers []wire.DeviceOffer) []*device {
	ordered := make([]*device, len(offers))
	for i, o := range offers {
		at := slices.IndexFunc(f.devices, func(d *device) bool { return d.Name == o.Name })
		ordered[i] = f.devices[at]
		ordered[i].offer = o
	}
	return ordered
}

// targets are the devices as the caller gave them.
func (f *fleet) targets() []Target {
	all := make([]Target, len(f.devices))
	for i, d := range f.devices {
		all[i] = d.Target
	}
	return all
}

// forEach runs do for all devices at once, and joins them.
func (f *fleet) forEach(do func(d *device) error) error {
	return f.each(len(f.devices), func(i int) error { return do(f.devices[i]) })
}

// prepare opens a session on every device. It so finds a device that is busy, or cannot take a
// state, while the source still runs.
func (f *fleet) prepare() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.forEach(func(d *device) error {
		stream, err := f.openSession(d)
		if err != nil {
			return d.faultOf(transport.CodeDevice, err)
		}
		d.stream = stream
		return nil
	})
}

// checkAvailable asks every device whether prepare could open a session, and changes none.
func (f *fleet) checkAvailable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.forEach(func(d *device) error {
		if _, err := d.needsReset(); err != nil {
			return d.faultOf(transport.CodeDevice, err)
		}
		return nil
	})
}

// openSession resets a device if necessary, and starts its session.
func (f *fleet) openSession(d *device) (vfio.Stream, error) {
	stale, err := d.needsReset()
	if err == nil && stale {
		err = d.Device.Reset()
	}
	if err != nil {
		return nil, err
	}
	d.touched = true
	return f.beginSession(d)
}

// start runs every device, in vfio.RunOrder, and checks that each is in its new state.
func (f *fleet) start() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.checkLoaded(); err != nil {
		f.lost = true
		return err
	}
	for _, step := range vfio.RunOrder() {
		err := f.forEach(func(d *device) error {
			if d.Device.Features().P2P != step.P2P {
				return nil
			}
			if now, err := d.Device.State(); f.adopted && err == nil && now == vfio.Running {
				return nil
			}
			return f.enter(d, step.To)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// noneStarted reports whether every device holds its copy, and none was started.
func (f *fleet) noneStarted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.checkLoaded() == nil && !slices.ContainsFunc(f.devices, func(d *device) bool {
		now, err := d.Device.State()
		return err != nil || now != vfio.Stop
	})
}

// checkLoaded checks that every device still holds its copy: a reset by another process leaves
// RUNNING, and so does a start by an earlier process.
func (f *fleet) checkLoaded() error {
	return f.forEach(func(d *device) error {
		now, err := d.Device.State()
		started := f.adopted && (now == vfio.RunningP2P || now == vfio.Running)
		if err == nil && now != vfio.Stop && !started {
			err = fmt.Errorf("%w: the device is in %v, not in %v", vfio.ErrSessionLost, now, vfio.Stop)
		}
		if err != nil {
			return d.faultOf(transport.CodeStart, err)
		}
		return nil
	})
}

func (f *fleet) enter(d *device, s vfio.State) error {
	_, err := vfio.Enter(d.Device, s, false)
	if errors.Is(err, vfio.ErrStraySession) { // it is in its new state
		f.warn(fmt.Errorf("device %s: %w", d.Name, err))
		err = nil
	}
	if err != nil {
		now, unknown := d.Device.State()
		d.hasRun = d.hasRun || unknown != nil || now == vfio.Running
		return d.faultOf(transport.CodeStart, err)
	}
	d.hasRun = d.hasRun || s == vfio.Running
	return nil
}

// undoStart stops the devices that a failed start has started, and returns what is left of the
// copy: whole, or reset. If a device has run, even briefly, the copy is no longer the source's
// state. The source must not take its own copy for the only one then: people decide.
func (f *fleet) undoStart() handoff.Copy {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		if f.resetTouched() == nil {
			return handoff.Dropped
		}
		return handoff.Unclear
	}
	err := f.forEach(func(d *device) error { return f.enter(d, vfio.Stop) })
	if slices.ContainsFunc(f.devices, func(d *device) bool { return d.hasRun }) {
		return handoff.Unclear
	}
	if err == nil {
		return handoff.Kept
	}
	if f.resetTouched() == nil {
		return handoff.Dropped
	}
	return handoff.Unclear
}

// reset resets the devices that were touched.
func (f *fleet) reset() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.resetTouched()
}

// resetAgain resets devices that have left RUNNING since their reset: a loader that was about to
// finish may have moved one to STOP. The loaders have ended.
func (f *fleet) resetAgain() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.forEach(func(d *device) error {
		if !d.discarded {
			return nil
		}
		now, err := d.Device.State()
		if err == nil && now != vfio.Running {
			err = d.Device.Reset()
		}
		if err != nil {
			return d.faultOf(transport.CodeDevice, err)
		}
		return nil
	})
}

func (f *fleet) resetTouched() error {
	return f.forEach(func(d *device) error {
		if !d.touched {
			return nil
		}
		if err := d.Device.Reset(); err != nil {
			return d.faultOf(transport.CodeDevice, err)
		}
		d.touched, d.discarded = false, true
		return nil
	})
}

// closeStreams closes the sessions' streams. No goroutine may be writing to them.
func (f *fleet) closeStreams() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, d := range f.devices {
		if d.stream != nil {
			errs = append(errs, d.stream.Close())
			d.stream = nil
		}
	}
	return errors.Join(errs...)
}

// holding is what the devices hold of an attempt with such a record. It is more than Nothing only
// for devices that another process holds open: a device that was just opened is in RUNNING, and
// holds nothing (VFIO's state on first open).
func (f *fleet) holding(r handoff.Record) handoff.Holding {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := func(states ...vfio.State) bool {
		return !slices.ContainsFunc(f.devices, func(d *device) bool {
			now, err := d.Device.State()
			return !d.HeldOpen || err != nil || !slices.Contains(states, now)
		})
	}
	switch r {
	case handoff.Ready:
		if all(vfio.Stop) {
			return handoff.Whole
		}
	case handoff.Accept, handoff.Running, handoff.Forced:
		if all(vfio.Running) {
			return handoff.Executing
		}
		if r != handoff.Running && all(vfio.Stop, vfio.RunningP2P, vfio.Running) {
			return handoff.Whole
		}
	}
	return handoff.Nothing
}

// resetParts resets the devices that hold a part of a state, and reports whether there were any.
func (f *fleet) resetParts() (found bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	parts := make([]bool, len(f.devices))
	err = f.each(len(f.devices), func(i int) (err error) {
		d := f.devices[i]
		stale, unclear := d.needsReset()
		parts[i] = stale && unclear == nil && d.HeldOpen // prepare reports the faults of the others
		if parts[i] {
			err = d.Device.Reset()
		}
		if err != nil {
			err = d.faultOf(transport.CodeDevice, err)
		}
		return err
	})
	return slices.Contains(parts, true), err
}

// adopt takes the devices as an earlier process left them. After ACCEPT any of them may have run,
// even one that is stopped now: the progress of that start is unknown.
func (f *fleet) adopt(r handoff.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adopted = true
	for _, d := range f.devices {
		d.touched, d.hasRun = true, r != handoff.Ready
	}
}
