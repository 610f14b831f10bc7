package reader

import (
	"errors"
	"fmt"
	"sync"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// fleet is the set of source devices and their sessions. Its methods block
// where the drivers block, and run one at a time.
type fleet struct {
	sources []Source
	each    func(n int, do func(i int) error) error // runs do for 0 to n-1 at once, joins them

	mu      sync.Mutex
	streams []vfio.Stream
	resumed bool // the way back was taken: no device leaves RUNNING any more
}

// deviceError is a failure of one device.
type deviceError struct {
	device int
	err    error
}

func (e *deviceError) Error() string { return e.err.Error() }
func (e *deviceError) Unwrap() error { return e.err }

// enter makes the moves, all at once, and returns when every device is where
// it should be: the barrier. Moves that come after resume are not made.
func (f *fleet) enter(moves []move) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.resumed {
		return nil
	}
	return f.each(len(moves), func(i int) error { return f.set(moves[i].device, moves[i].to) })
}

func (f *fleet) set(device int, to vfio.State) error {
	stream, err := f.sources[device].Device.SetState(to)
	if err != nil {
		return &deviceError{device, err}
	}
	if stream != nil {
		if old := f.streams[device]; old != nil {
			old.Close()
		}
		f.streams[device] = stream
	}
	return nil
}

// resume takes every device back to RUNNING, in vfio.RunOrder. One that cannot
// come back holds up none of the others: it answers nobody in any state, and
// they are somebody's. The guest is not resumed then.
func (f *fleet) resume() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resumed = true
	var errs []error
	for _, step := range vfio.RunOrder() {
		errs = append(errs, f.each(len(f.sources), func(i int) error {
			if f.sources[i].Device.Features().P2P != step.P2P {
				return nil
			}
			return f.backTo(i, step.To)
		}))
	}
	return errors.Join(errs...)
}

func (f *fleet) backTo(device int, to vfio.State) error {
	now, err := f.sources[device].Device.State()
	if err != nil {
		return &deviceError{device, err}
	}
	initiates := now == vfio.Running || now == vfio.PreCopy
	if now == to || to == vfio.RunningP2P && initiates {
		return nil
	}
	return f.set(device, to)
}

// release ends the sessions of devices that now run elsewhere, and leaves them
// in STOP. It can be slow, and happens after the downtime.
func (f *fleet) release() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.each(len(f.sources), func(i int) error { return f.set(i, vfio.Stop) })
}

// closeStreams closes the sessions' streams, which nobody may be reading.
func (f *fleet) closeStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, s := range f.streams {
		if s != nil {
			s.Close()
			f.streams[i] = nil
		}
	}
}

// stream is the open session of a device, or nil.
func (f *fleet) stream(device int) vfio.Stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.streams[device]
}

// fault names the device in an error.
func (f *fleet) fault(err error, offset func(device int) uint64) *transport.Fault {
	fault := &transport.Fault{Code: transport.CodeDevice, Err: err}
	if de, ok := errors.AsType[*deviceError](err); ok {
		fault.Device, fault.Offset = f.sources[de.device].Name, offset(de.device)
	}
	if errors.Is(err, vfio.ErrBusy) || errors.Is(err, vfio.ErrNoMigration) {
		fault.Code = transport.CodeBusy
	}
	return fault
}

// states asks every device where it is, for the report.
func (f *fleet) states() []string {
	out := make([]string, len(f.sources))
	for i, s := range f.sources {
		now, err := s.Device.State()
		out[i] = now.String()
		if err != nil {
			out[i] = fmt.Sprintf("unknown: %v", err)
		}
	}
	return out
}
