package writer

import (
	"sync/atomic"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// device is one device of this side: its session, and how far its stream is. The loop owns it,
// except where a field says otherwise.
type device struct {
	Sink

	// The fleet's lock guards these.
	stream    vfio.Stream // of its session, nil before that is open
	touched   bool        // it has left the state that it was given in
	discarded bool        // it was reset
	ran       bool        // it has been in RUNNING with the source's state, or may have

	offer    wire.DeviceOffer // of HELLO
	splice   bool             // its bytes come as splice(2) moves them
	merge    *merge           // these from the moment of WELCOME
	loader   *loader
	received atomic.Uint64 // payload bytes, as they came; the receivers write it
	estimate wire.DeviceEstimate
	atStop   uint64                 // bytes that were applied when the guest had stopped
	digest   migration.StreamDigest // of the whole stream, once it is loaded
}

// newDevices makes the devices of this side.
func newDevices(sinks []Sink) []*device {
	devices := make([]*device, len(sinks))
	for i, s := range sinks {
		devices[i] = &device{Sink: s}
	}
	return devices
}

// position is how much of the stream was applied, in bytes: nothing before WELCOME.
func (d *device) position() uint64 {
	if d.merge == nil {
		return 0
	}
	return d.merge.position()
}

// left is what the device has still to be sent, as far as is known.
func (d *device) left(stopped bool) uint64 {
	applied := d.position()
	return left(d.estimate, stopped, applied, applied-d.atStop)
}

// need is what the memory is divided by.
func (d *device) need(stopped bool) share.Need {
	return share.Need{Bytes: d.left(stopped), Known: d.estimate.Known, Priority: d.offer.Priority}
}
