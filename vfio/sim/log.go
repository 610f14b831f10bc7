package sim

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// Event is an arc that a device took or failed to take, or a reset.
type Event struct {
	Seq      uint64 // grows over all devices of the process: tells what came first
	At       time.Time
	From, To vfio.State
	Reset    bool
	Err      error // why the device is still in From
}

// Stats counts what was asked of a device.
type Stats struct {
	Sets, Resets, Pendings      int
	Reads, Writes               int
	BytesRead, BytesWritten     int64
	ReadsDrained, StreamsOpened int
}

// maxEvents bounds the log; the oldest half goes first.
const maxEvents = 1024

var eventSeq atomic.Uint64

type eventLog []Event

func (l *eventLog) add(e Event) {
	if len(*l) == maxEvents {
		*l = slices.Delete(*l, 0, maxEvents/2)
	}
	e.Seq, e.At = eventSeq.Add(1), time.Now()
	*l = append(*l, e)
}

// Log returns the device's latest events, oldest first.
func (d *Device) Log() []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

// Stats returns the device's counters.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}
