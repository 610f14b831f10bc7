package file

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/migpipe/migpipe/vfio"
)

// device is the part that both ends share: a device without PRE_COPY and P2P,
// whose arcs its end gives a meaning.
type device struct {
	name     string
	features vfio.Features
	ends     ends

	mu     sync.Mutex
	state  vfio.State
	sess   *session
	closed bool
}

// ends is what the arcs do to the files.
type ends interface {
	// arc is called before the device goes from one state to its neighbour, and
	// may fail: with errGone, that puts the device into ERROR. It gives the
	// session of the new state, if that has one.
	arc(from, to vfio.State) (*session, error)
	// drop forgets what was not committed.
	drop() error
	// close closes the files.
	close() error
}

// errGone: what was loaded is not there any more, and only a reset begins anew.
var errGone = errors.New("the state is gone")

func newDevice(name string, f vfio.Features, e ends) *device {
	return &device{name: "file:" + name, features: f, ends: e, state: vfio.Running}
}

func (d *device) fail(op string, err error) error {
	return &vfio.OpError{Op: op, Device: d.name, Offset: -1, Err: err}
}

// Features implements [vfio.Device].
func (d *device) Features() vfio.Features { return d.features }

// Describe implements [vfio.Describer].
func (d *device) Describe() vfio.Info { return vfio.Info{Driver: "file"} }

// State implements [vfio.Device].
func (d *device) State() (vfio.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return vfio.StateError, d.fail("get state", os.ErrClosed)
	}
	return d.state, nil
}

// SetState implements [vfio.Device].
func (d *device) SetState(to vfio.State) (vfio.Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from := d.state
	if err := d.walk(to); err != nil {
		return nil, d.fail("set state", err)
	}
	if vfio.OpensSession(from, to) {
		return d.sess, nil
	}
	return nil, nil
}

// walk takes every arc to a state. The lock is held.
func (d *device) walk(to vfio.State) error {
	if d.closed {
		return os.ErrClosed
	}
	from := d.state
	path, err := vfio.Path(from, to, d.features)
	for _, next := range path {
		if err = d.step(next); err != nil {
			break
		}
	}
	if err != nil {
		return &vfio.TransitionError{From: from, To: to, Now: d.state, Err: err}
	}
	return nil
}

// step takes one arc. The session of the old state ends first, so that no
// Write can come after the data was made durable.
func (d *device) step(to vfio.State) error {
	d.sess.end()
	if d.state == vfio.Resuming && d.sess.broken != nil {
		return fmt.Errorf("a write failed before: %w", cause(d.sess.broken))
	}
	sess, err := d.ends.arc(d.state, to)
	if errors.Is(err, errGone) {
		d.state, d.sess = vfio.StateError, nil
	}
	if err != nil {
		return err
	}
	d.state, d.sess = to, sess
	return nil
}

// Reset implements [vfio.Device].
func (d *device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.fail("reset", os.ErrClosed)
	}
	d.sess.end()
	d.state, d.sess = vfio.Running, nil
	if err := d.ends.drop(); err != nil {
		return d.fail("reset", err)
	}
	return nil
}

// Close implements [vfio.Device]. A state that was not committed is discarded, unless its session
// is persistent and complete.
func (d *device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.sess.end()
	if err := d.ends.close(); err != nil {
		return d.fail("close", err)
	}
	return nil
}
