package share

import (
	"github.com/migpipe/migpipe/internal/wire"
)

// Turns is the order in which devices with something to send take a free lane:
// in proportion to their needs, and nobody waits for one that has nothing to
// send (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996).
type Turns struct {
	now     uint64 // the start of the turn that was taken last, in bytes of all devices
	devices []turn
	shares  []int // what Divide makes
}

type turn struct {
	share int    // of parts
	start uint64 // of its next turn: the bytes of all at which that is due
	ready bool
}

// parts is what the lanes are divided into.
const parts = 1 << 20

// NewTurns divides the lanes by needs.
func NewTurns(needs []Need) *Turns {
	t := &Turns{devices: make([]turn, len(needs)), shares: make([]int, len(needs))}
	t.Divide(needs)
	return t
}

// Divide makes the shares anew. The floors are a sixteenth of all, together: the
// lanes of a device whose estimate is far too low. What a device has had in
// advance by its old share counts by the new one: else one that was thought
// small would wait for long after it was found large.
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

// catchUp is what a device that had nothing to send may make up for, in bytes of
// all devices: enough for the moments in which it waits for memory or credit,
// without which it would never have its share, and no more.
const catchUp = 4 * wire.MaxChunk

// Ready says whether a device has something to send.
func (t *Turns) Ready(device int, ready bool) {
	d := &t.devices[device]
	if ready && !d.ready {
		d.start = max(d.start, t.now-min(t.now, catchUp))
	}
	d.ready = ready
}

// Next is whose turn it is.
func (t *Turns) Next() (device int, ok bool) {
	for i := range t.devices {
		d := &t.devices[i]
		if d.ready && (!ok || d.start < t.devices[device].start) {
			device, ok = i, true
		}
	}
	return device, ok
}

// Took says that a device takes its turn, for so many bytes.
func (t *Turns) Took(device, bytes int) {
	d := &t.devices[device]
	t.now = max(t.now, d.start)
	d.start += uint64(bytes) * parts / uint64(d.share)
}
