package share

import (
	"github.com/migpipe/migpipe/internal/wire"
)

// Turns is the order in which devices that have data to send take a free lane: in
// proportion to their needs. A device does not wait for another that has no data
// (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996).
type Turns struct {
	now     uint64 // the start of the last turn, in bytes of all devices
	devices []turn
	shares  []int // the result of Divide
}

type turn struct {
	share int    // of parts
	start uint64 // the start of its next turn, in bytes of all devices
	ready bool
}

// parts is the sum of all shares of the lanes.
const parts = 1 << 20

// NewTurns returns Turns that divide the lanes by needs.
func NewTurns(needs []Need) *Turns {
	t := &Turns{devices: make([]turn, len(needs)), shares: make([]int, len(needs))}
	t.Divide(needs)
	return t
}

// Divide computes the shares again. The floors sum up to a sixteenth of the lanes,
// for devices whose estimates are far too low. Divide converts the bytes by which a
// device is ahead to the new share. Otherwise a device whose estimate grows would
// wait for long.
func (t *Turns) Divide(needs []Need) {
	Divide(t.shares, parts, parts/(16*max(1, len(needs))), needs)
	for i, s := range t.shares {
		d := &t.devices[i]
		s = max(1, s)
		if d.start > t.now && d.share > 0 {
			d.start = t.now + (d.start-t.now)*uint64(d.share)/uint64(s)
		}
		d.share = s
	}
}

// catchUp is how far a device that had no data may be behind, in bytes of all
// devices. It compensates for short waits for memory or credit, without which the
// device would never get its share.
const catchUp = 4 * wire.MaxChunk

// Ready sets whether a device has data to send.
func (t *Turns) Ready(device int, ready bool) {
	d := &t.devices[device]
	if ready && !d.ready {
		d.start = max(d.start, t.now-min(t.now, catchUp))
	}
	d.ready = ready
}

// Next returns the device whose turn is next.
func (t *Turns) Next() (device int, ok bool) {
	for i := range t.devices {
		d := &t.devices[i]
		if d.ready && (!ok || d.start < t.devices[device].start) {
			device, ok = i, true
		}
	}
	return device, ok
}

// Take counts a turn of a device, in which it sends bytes.
func (t *Turns) Take(device, bytes int) {
	d := &t.devices[device]
	t.now = max(t.now, d.start)
	d.start += uint64(bytes) * parts / uint64(d.share)
}
