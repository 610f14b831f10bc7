package file

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/migpipe/migpipe/vfio"
)

// device is the part that Source and Destination share: a device without PRE_COPY and
// P2P, whose backend executes the arcs.
type device struct {
	name     string
	features vfio.Features
	backend  backend

	mu     sync.Mutex
	state  vfio.State
	sess   *session
	closed bool
}

// backend executes the arcs on a file.
type backend interface {
	// apply is called before the device takes an arc. It returns the session of
	// the new state, if that has one. If it fails, the device stays in its
	// state; after errGone it enters ERROR.
	apply(from, to vfio.State) (*session, error)
	// discard discards data that was not committed.
	discard() error
	// close closes the files.
	close() error
}

// errGone means that the loaded state is lost. Only a reset helps.
var errGone = errors.New("the loaded state is lost")

func newDevice(name string, f vfio.Features, b backend) *device {
	return &device{name: "file:" + name, features: f, backend: b, state: vfio.Running}
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

// step takes one arc. It ends the session of the old state first, so that no
// Write follows after the data was made durable.
func (d *device) step(to vfio.State) error {
	d.sess.end()
	if d.state == vfio.Resuming && d.sess.broken != nil {
		return fmt.Errorf("an earlier write failed: %w", stripPath(d.sess.broken))
	}
	sess, err := d.backend.apply(d.state, to)
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
	if err := d.backend.discard(); err != nil {
		return d.fail("reset", err)
	}
	return nil
}

// Close implements [vfio.Device]. It discards a state that was not committed, unless the session
// is persistent and complete.
func (d *device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.sess.end()
	if err := d.backend.close(); err != nil {
		return d.fail("close", err)
	}
	return nil
}
