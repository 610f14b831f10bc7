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

// fleet is the set of destination devices and their sessions. Its methods
// block where the drivers block, and run one at a time.
type fleet struct {
	devices []*device                               // as they were given; the engine has them in HELLO's order
	each    func(n int, do func(i int) error) error // runs do for 0 to n-1 at once, joins them
	warn    func(error)                             // reports what a device did wrong and no step fails for
	session string                                  // the id that the devices persist their state under, "" if they do not

	mu      sync.Mutex
	lost    bool // a copy was gone before the start
	adopted bool // a process before this one has used them, and may have started some
}

func newFleet(sinks []Sink) *fleet { return &fleet{devices: newDevices(sinks), each: tasks.Parallel} }

// inOrder gives the devices in HELLO's order, each with what HELLO says of it.
func (f *fleet) inOrder(offers []wire.DeviceOffer) []*device {
	ordered := make([]*device, len(offers))
	for i, o := range offers {
		at := slices.IndexFunc(f.devices, func(d *device) bool { return d.Name == o.Name })
		ordered[i] = f.devices[at]
		ordered[i].offer = o
	}
	return ordered
}

// sinks are the devices as they were given.
func (f *fleet) sinks() []Sink {
	all := make([]Sink, len(f.devices))
	for i, d := range f.devices {
		all[i] = d.Sink
	}
	return all
}

// every runs do for all devices at once, and joins them.
func (f *fleet) every(do func(d *device) error) error {
	return f.each(len(f.devices), func(i int) error { return do(f.devices[i]) })
}

// prepare opens a session on every device, so that a device that is busy or
// cannot take a state is found while the source still runs.
func (f *fleet) prepare() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.every(func(d *device) error {
		stream, err := f.open(d)
		if err != nil {
			return d.fault(transport.CodeDevice, err)
		}
		d.stream = stream
		return nil
	})
}

// available asks every device whether prepare could open a session on it, and
// changes none.
func (f *fleet) available() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.every(func(d *device) error {
		if _, err := d.stale(); err != nil {
			return d.fault(transport.CodeDevice, err)
		}
		return nil
	})
}

// open starts a device's session.
func (f *fleet) open(d *device) (vfio.Stream, error) {
	stale, err := d.stale()
	if err == nil && stale {
		err = d.Device.Reset()
	}
	if err != nil {
		return nil, err
	}
	d.touched = true
	return f.begin(d)
}

// stale reports whether a device has to be reset before it takes a state: it
// holds a load that somebody abandoned. One that is being saved is somebody's,
// and left alone.
func (d *device) stale() (bool, error) {
	now, err := d.Device.State()
	if err != nil {
		return false, err
	}
	switch now {
	case vfio.Running, vfio.Stop:
		return false, nil
	case vfio.Resuming, vfio.Error:
		return true, nil
	}
	return false, fmt.Errorf("%w: it is in %v", vfio.ErrBusy, now)
}

// start runs every device, in vfio.RunOrder, and asks each whether it is where
// it was sent.
func (f *fleet) start() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.loaded(); err != nil {
		f.lost = true
		return err
	}
	for _, step := range vfio.RunOrder() {
		err := f.every(func(d *device) error {
			if d.Device.Features().P2P != step.P2P {
				return nil
			}
			if now, err := d.Device.State(); f.adopted && err == nil && now == vfio.Running {
				return nil
			}
			return f.to(d, step.To)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// idle reports whether every device holds its copy, and none was started.
func (f *fleet) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loaded() == nil && !slices.ContainsFunc(f.devices, func(d *device) bool {
		now, err := d.Device.State()
		return err != nil || now != vfio.Stop
	})
}

// loaded asks every device whether it still holds its copy: a reset behind our
// back leaves RUNNING, as does a start by a process before this one.
func (f *fleet) loaded() error {
	return f.every(func(d *device) error {
		now, err := d.Device.State()
		started := f.adopted && (now == vfio.RunningP2P || now == vfio.Running)
		if err == nil && now != vfio.Stop && !started {
			err = fmt.Errorf("%w: the device is in %v, not in %v", vfio.ErrSessionLost, now, vfio.Stop)
		}
		if err != nil {
			return d.fault(transport.CodeStart, err)
		}
		return nil
	})
}

func (f *fleet) to(d *device, s vfio.State) error {
	_, err := vfio.Enter(d.Device, s, false)
	if errors.Is(err, vfio.ErrStraySession) { // it is where it was sent
		f.warn(fmt.Errorf("device %s: %w", d.Name, err))
		err = nil
	}
	if err != nil {
		now, unknown := d.Device.State()
		d.ran = d.ran || unknown != nil || now == vfio.Running
		return d.fault(transport.CodeStart, err)
	}
	d.ran = d.ran || s == vfio.Running
	return nil
}

// unstart stops what a start that failed half-way has started, and says what is
// left of the copy: whole, or reset. Where a device has run, if only for a
// moment, the copy is no longer the source's state, and the source must not
// take its own for the only one: then it is for people to decide.
func (f *fleet) unstart() handoff.Copy {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		if f.resetTouched() == nil {
			return handoff.Dropped
		}
		return handoff.Unclear
	}
	err := f.every(func(d *device) error { return f.to(d, vfio.Stop) })
	if slices.ContainsFunc(f.devices, func(d *device) bool { return d.ran }) {
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

// reset drops what the devices hold. A device that was never touched keeps its
// state.
func (f *fleet) reset() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.resetTouched()
}

// settle resets again what has left RUNNING since it was reset: a loader that was
// about to finish may have taken it to STOP. The loaders have ended.
func (f *fleet) settle() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.every(func(d *device) error {
		if !d.discarded {
			return nil
		}
		now, err := d.Device.State()
		if err == nil && now != vfio.Running {
			err = d.Device.Reset()
		}
		if err != nil {
			return d.fault(transport.CodeDevice, err)
		}
		return nil
	})
}

func (f *fleet) resetTouched() error {
	return f.every(func(d *device) error {
		if !d.touched {
			return nil
		}
		if err := d.Device.Reset(); err != nil {
			return d.fault(transport.CodeDevice, err)
		}
		d.touched, d.discarded = false, true
		return nil
	})
}

// closeStreams closes the sessions' streams, which nobody may be writing.
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

func (d *device) fault(code transport.Code, err error) *transport.Fault {
	if errors.Is(err, vfio.ErrBusy) || errors.Is(err, vfio.ErrNoMigration) {
		code = transport.CodeBusy
	}
	return &transport.Fault{Code: code, Device: d.Name, Err: err}
}

// state asks the device where it is, for the report.
func (d *device) state() string {
	now, err := d.Device.State()
	if err != nil {
		return fmt.Sprintf("unknown: %v", err)
	}
	return now.String()
}
