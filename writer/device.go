package writer

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// device is one device of this side: its session, and its stream. The loop owns it, except where a
// field says otherwise.
type device struct {
	Target

	// The fleet's lock guards the next four.
	stream    vfio.Stream // of its session, nil before that is open
	touched   bool        // it has left its initial state
	discarded bool        // it was reset
	hasRun    bool        // it has been in RUNNING with the source's state, or may have

	offer    wire.DeviceOffer // of HELLO
	splice   bool             // its bytes come spliced
	merge    *merge           // this and the next ones are set at WELCOME
	loader   *loader
	received atomic.Uint64 // payload bytes of the lanes; the receivers write it
	estimate wire.DeviceEstimate
	atStop   uint64                 // bytes that were applied at the pause of the guest
	digest   migration.StreamDigest // of the whole stream, once it is loaded
}

// newDevices makes the devices of this side.
func newDevices(targets []Target) []*device {
	devices := make([]*device, len(targets))
	for i, s := range targets {
		devices[i] = &device{Target: s}
	}
	return devices
}

// bytesApplied is how much of the stream was applied, in bytes: 0 before WELCOME.
func (d *device) bytesApplied() uint64 {
	if d.merge == nil {
		return 0
	}
	return d.merge.bytesApplied()
}

// remaining estimates how many bytes the device has still to receive.
func (d *device) remaining(stopped bool) uint64 {
	applied := d.bytesApplied()
	return estimateRemaining(d.estimate, stopped, applied, applied-d.atStop)
}

// need is what the memory is divided by.
func (d *device) need(stopped bool) share.Need {
	return share.Need{Bytes: d.remaining(stopped), Known: d.estimate.Known, Priority: d.offer.Priority}
}

// needsReset reports whether a device has to be reset before it takes a state: it holds an
// abandoned load. A device that is being saved belongs to another owner, and is not touched.
func (d *device) needsReset() (bool, error) {
	now, err := d.Device.State()
	if err != nil {
		return false, err
	}
	switch now {
	case vfio.Running, vfio.Stop:
		return false, nil
	case vfio.Resuming, vfio.StateError:
		return true, nil
	}
	return false, fmt.Errorf("%w: it is in %v", vfio.ErrBusy, now)
}

func (d *device) faultOf(code transport.Code, err error) *transport.Fault {
	if errors.Is(err, vfio.ErrBusy) || errors.Is(err, vfio.ErrNoMigration) {
		code = transport.CodeBusy
	}
	return &transport.Fault{Code: code, Device: d.Name, Err: err}
}

// stateText asks the device for its state, for the report.
func (d *device) stateText() string {
	now, err := d.Device.State()
	if err != nil {
		return fmt.Sprintf("unknown: %v", err)
	}
	return now.String()
}

// persistedIDs are the ids of the states that a device holds for a later process.
func (d *device) persistedIDs() (ids []string, err error) {
	r, ok := d.Device.(vfio.Resumable)
	if !ok {
		return nil, nil
	}
	list, err := r.Persisted()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	return ids, err
}

// resume moves a device to STOP with the copy that it holds.
func (d *device) resume(session string) (copyNote, error) {
	b, err := d.Device.(vfio.Resumable).Resume(session)
	if err != nil && !errors.Is(err, vfio.ErrCommitted) {
		return copyNote{}, err
	}
	d.touched = d.touched || err == nil
	n, broken := parseCopyNote(b)
	return n, cmp.Or(broken, err)
}
