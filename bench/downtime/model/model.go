package model

import (
	"errors"
	"fmt"
	"time"
)

// Device describes a device's driver and firmware on both hosts. A rate of 0 costs no time.
type Device struct {
	Initial int64 // bytes of the first image, sent while the guest runs; 0 = no PRE_COPY
	Dirty   int64 // bytes left to send when the guest stops
	Save    int64 // bytes per second that the source saves
	Buffer  int64 // bytes that become readable together, 0 = all at once
	Buffers int64 // buffers that may be unread before the device idles
	Load    int64 // bytes per second that the destination loads, inside write
	Record  int64 // bytes that the destination loads together, 0 = as they arrive

	Alloc time.Duration // inside the write that completes the initial bytes
	Stop  time.Duration // of the SET into STOP_COPY
	Start time.Duration // of the SETs from RESUMING to RUNNING
}

// Link is the path to the destination. A rate of 0 costs no time.
type Link struct {
	Rate int64 // bytes per second
	RTT  time.Duration
}

// Strategy is how a migration is organised.
type Strategy struct {
	Name string
	// Ack has the guest run on until the destination has written the initial
	// bytes, and so has allocated its memory.
	Ack bool
	// These select where each device has its own thread, on both sides. Otherwise
	// one thread serves all devices in turn: in PRE_COPY, in the window between stop
	// and start, for the SETs of the stop and for those of the start.
	Precopy, Window, Stop, Start bool
	// Flight is the most bytes in flight per thread, 0 for no limit. The
	// destination returns them when it has written them or, where it queues
	// without bound, when it has received them.
	Flight  int64
	Unbound bool
	// Commit has the source agree, once everything is loaded, before the
	// destination starts: one round trip.
	Commit bool
}

const mib = 1 << 20

// chunk is the size of a thread's read.
const chunk = mib

// Strategies are the strategies under comparison. Flight differs: for the serial ones
// it is what a lane takes before the destination reads (transport.InitialWindow). For
// multifd it is as many packets of QEMU as there are channels (four). For migpipe it is
// the default memory of 32 MiB, less one chunk for each of two lanes, divided.
func Strategies(devices int) []Strategy {
	return []Strategy{
		{Name: "serial without ack", Flight: 2 * mib},
		{Name: "serial with ack", Flight: 2 * mib, Ack: true},
		{Name: "multifd, load threads", Flight: 4 * mib, Ack: true, Window: true, Stop: true, Unbound: true},
		{Name: "migpipe", Flight: int64(30/max(devices, 1)) * mib, Ack: true,
			Precopy: true, Window: true, Stop: true, Start: true, Commit: true},
	}
}

// Stage is one part of the downtime.
type Stage struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

// Result has the durations of a migration.
type Result struct {
	Stages   []Stage       `json:"stages"` // of the downtime, in order
	Downtime time.Duration `json:"downtime_ns"`
	Total    time.Duration `json:"total_ns"` // from the entry into PRE_COPY on
}

// Cuts are the moments between the stages of a downtime, on one clock. A stage lasts from
// one cut to the next later one.
type Cuts struct {
	Began   time.Duration // the migration began
	Paused  time.Duration // the guest was paused
	Stopped time.Duration // the last device reached STOP_COPY
	Filled  time.Duration // the destination began to write the bytes that followed the pause
	Saved   time.Duration // the last byte was read from its device
	Wired   time.Duration // the destination began its last write
	Loaded  time.Duration // the destination ended its last write
	Agreed  time.Duration // the destination began to start devices
	Started time.Duration // the last device reached RUNNING
}

// StageNames are the names of the stages of the downtime, in the order of Cuts.
var StageNames = []string{"stop", "fill", "save", "wire", "load", "commit", "start"}

// Result divides the downtime.
func (c Cuts) Result() Result {
	r := Result{Downtime: c.Started - c.Paused, Total: c.Started - c.Began}
	at := c.Paused
	for i, cut := range []time.Duration{c.Stopped, c.Filled, c.Saved, c.Wired, c.Loaded, c.Agreed, c.Started} {
		r.Stages = append(r.Stages, Stage{StageNames[i], max(0, cut-at)})
		at = max(at, cut)
	}
	return r
}

// Check reports an error in a device's figures.
func (d Device) Check() error {
	switch {
	case min(d.Initial, d.Dirty, d.Save, d.Load, d.Buffer, d.Record) < 0:
		return fmt.Errorf("model: a size or rate is negative")
	case d.Buffer > 0 && d.Buffers < 1:
		return fmt.Errorf("model: %d buffers, a device that saves into buffers needs one", d.Buffers)
	case min(d.Alloc, d.Stop, d.Start) < 0:
		return fmt.Errorf("model: a time is negative")
	}
	return nil
}

// Run simulates the migration of a set of devices over a link.
func Run(s Strategy, link Link, devices []Device) (Result, error) {
	if len(devices) == 0 {
		return Result{}, errors.New("model: no device")
	}
	for _, d := range devices {
		if err := d.Check(); err != nil {
			return Result{}, err
		}
	}
	m := newMigration(s, link, devices)
	m.precopy()
	m.run()
	return m.cuts.Result(), nil
}

// timeFor is the time for n bytes at a rate.
func timeFor(rate, n int64) time.Duration {
	if rate <= 0 {
		return 0
	}
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}
