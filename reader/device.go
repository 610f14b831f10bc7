package reader

import (
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// device is one device of a migration: its session, its stream, and its rates. Its number is that
// of HELLO and of every message. The loop owns it, except where a field says otherwise.
type device struct {
	Source
	number int
	stream vfio.Stream // of its session, nil before that is open; the fleet's lock guards it
	drain  *drain      // reads the stream, nil before the session is open
	splice bool        // the destination takes its bytes from splice(2)

	polls    pollTimes     // when its driver was last polled for estimates
	sent     atomic.Uint64 // payload bytes that the lanes were given; the senders write it
	applied  uint64        // bytes of the stream, as acknowledged
	end      wire.End      // set when the stream is read to its end
	endSent  bool          // END was sent
	atPause  streamMark
	saveRate rateTotal // at which it is read
	wireRate rateTotal // at which it is sent
	loadRate rateTotal // at which the destination writes it
}

// streamMark is the position of a stream at one time.
type streamMark struct {
	read          uint64        // bytes
	saved, loaded time.Duration // time that reading and writing the bytes has taken
}

// newDevices makes the devices of a migration.
func newDevices(sources []Source) []*device {
	devices := make([]*device, len(sources))
	for i, s := range sources {
		devices[i] = &device{Source: s, number: i}
	}
	return devices
}

// bytesRead is how much of the stream was read, in bytes.
func (d *device) bytesRead() uint64 {
	if d.drain == nil {
		return 0
	}
	return d.drain.read.Load()
}

// markPause notes the position of the stream at the pause of the guest.
func (d *device) markPause() {
	d.atPause = streamMark{read: d.bytesRead(), loaded: d.loadRate.took}
	if d.drain != nil {
		d.atPause.saved = time.Duration(d.drain.took.Load())
	}
}

// rates are the speeds of the device's stages, for people.
func (d *device) rates() migration.Rates {
	return migration.Rates{Save: finite(d.saveRate.mean()), Wire: finite(d.wireRate.value()), Load: finite(d.loadRate.value())}
}

// pollTimes are the times of the last polls of a device.
type pollTimes struct {
	last, size time.Time
	asking     bool
}
