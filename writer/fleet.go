package writer

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
)

// fleet is the set of destination devices and their sessions. Its methods
// block where the drivers block, and run one at a time.
type fleet struct {
	sinks []Sink
	each  func(n int, do func(i int) error) error // runs do for 0 to n-1 at once, joins them
	warn  func(error)                             // reports what a device did wrong and no step fails for

	session string // the id that the devices persist their state under, "" if they do not

	mu      sync.Mutex
	streams []vfio.Stream
	touched []bool // has left the state that it was given in
	dropped []bool // was reset
	lost    bool   // a copy was gone before the start
	ran     []bool // has been in RUNNING with the source's state, or may have
	adopted bool   // a process before this one has used them, and may have started some
}

// prepare opens a session on every device, so that a device that is busy or
// cannot take a state is found while the source still runs.
func (f *fleet) prepare() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.each(len(f.sinks), func(i int) error {
		stream, err := f.open(i)
		if err != nil {
			return f.fault(i, transport.CodeDevice, err)
		}
		f.streams[i] = stream
		return nil
	})
}

// available asks every device whether prepare could open a session on it, and
// changes none.
func (f *fleet) available() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.each(len(f.sinks), func(i int) error {
		if _, err := f.stale(i); err != nil {
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
}

// open starts a device's session.
func (f *fleet) open(i int) (vfio.Stream, error) {
	d := f.sinks[i].Device
	stale, err := f.stale(i)
	if err == nil && stale {
		err = d.Reset()
	}
	if err != nil {
		return nil, err
	}
	f.touched[i] = true
	return f.begin(i)
}

// stale reports whether a device has to be reset before it takes a state: it
// holds a load that somebody abandoned. One that is being saved is somebody's,
// and left alone.
func (f *fleet) stale(i int) (bool, error) {
	now, err := f.sinks[i].Device.State()
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
		err := f.each(len(f.sinks), func(i int) error {
			if f.sinks[i].Device.Features().P2P != step.P2P {
				return nil
			}
			if now, err := f.sinks[i].Device.State(); f.adopted && err == nil && now == vfio.Running {
				return nil
			}
			return f.to(i, step.To)
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
	return f.loaded() == nil && !slices.ContainsFunc(f.sinks, func(s Sink) bool {
		now, err := s.Device.State()
		return err != nil || now != vfio.Stop
	})
}

// loaded asks every device whether it still holds its copy: a reset behind our
// back leaves RUNNING, as does a start by a process before this one.
func (f *fleet) loaded() error {
	return f.each(len(f.sinks), func(i int) error {
		now, err := f.sinks[i].Device.State()
		started := f.adopted && (now == vfio.RunningP2P || now == vfio.Running)
		if err == nil && now != vfio.Stop && !started {
			err = fmt.Errorf("%w: the device is in %v, not in %v", vfio.ErrSessionLost, now, vfio.Stop)
		}
		if err != nil {
			return f.fault(i, transport.CodeStart, err)
		}
		return nil
	})
}

func (f *fleet) to(i int, s vfio.State) error {
	_, err := vfio.Enter(f.sinks[i].Device, s, false)
	if errors.Is(err, vfio.ErrStraySession) { // it is where it was sent
		f.warn(fmt.Errorf("device %s: %w", f.sinks[i].Name, err))
		err = nil
	}
	if err != nil {
		now, unknown := f.sinks[i].Device.State()
		f.ran[i] = f.ran[i] || unknown != nil || now == vfio.Running
		return f.fault(i, transport.CodeStart, err)
	}
	f.ran[i] = f.ran[i] || s == vfio.Running
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
	err := f.each(len(f.sinks), func(i int) error { return f.to(i, vfio.Stop) })
	if slices.Contains(f.ran, true) {
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
	return f.each(len(f.sinks), func(i int) error {
		if !f.dropped[i] {
			return nil
		}
		d := f.sinks[i].Device
		now, err := d.State()
		if err == nil && now != vfio.Running {
			err = d.Reset()
		}
		if err != nil {
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
}

func (f *fleet) resetTouched() error {
	return f.each(len(f.sinks), func(i int) error {
		if !f.touched[i] {
			return nil
		}
		if err := f.sinks[i].Device.Reset(); err != nil {
			return f.fault(i, transport.CodeDevice, err)
		}
		f.touched[i], f.dropped[i] = false, true
		return nil
	})
}

// closeStreams closes the sessions' streams, which nobody may be writing.
func (f *fleet) closeStreams() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for i, s := range f.streams {
		if s != nil {
			errs = append(errs, s.Close())
			f.streams[i] = nil
		}
	}
	return errors.Join(errs...)
}

func (f *fleet) fault(i int, code transport.Code, err error) *transport.Fault {
	if errors.Is(err, vfio.ErrBusy) || errors.Is(err, vfio.ErrNoMigration) {
		code = transport.CodeBusy
	}
	return &transport.Fault{Code: code, Device: f.sinks[i].Name, Err: err}
}

// states asks every device where it is, for the report.
func (f *fleet) states() []string {
	out := make([]string, len(f.sinks))
	for i, s := range f.sinks {
		now, err := s.Device.State()
		out[i] = now.String()
		if err != nil {
			out[i] = fmt.Sprintf("unknown: %v", err)
		}
	}
	return out
}
