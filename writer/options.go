package writer

import (
	"fmt"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
)

// Sink is one device that takes the state of the source's device of the same
// name. The caller opened the device, and closes it after Receive.
type Sink struct {
	Name   string
	Device vfio.Device
}

// Options tunes Receive. Nil, or a zero field, means the default.
type Options struct {
	// Memory is the size of the chunk buffers, in bytes: what may be on its way
	// or waiting for a device. Default 32 MiB.
	Memory int
	// ChunkSize is the largest chunk that is accepted, in bytes. Default 1 MiB.
	ChunkSize int
	// MaxState is the most bytes that one device may send. An estimate never
	// bounds a stream; this does. Default 1 TiB.
	MaxState uint64
	// Journal keeps the hand-off's records. Default: in memory.
	Journal handoff.Journal
	// Observe is told what happens.
	Observe report.Observer
	// Software is how this side introduces itself.
	Software string
}

func (o *Options) withDefaults() (Options, error) {
	v := Options{}
	if o != nil {
		v = *o
	}
	if v.Memory == 0 {
		v.Memory = 32 << 20
	}
	if v.ChunkSize == 0 {
		v.ChunkSize = 1 << 20
	}
	if v.MaxState == 0 {
		v.MaxState = 1 << 40
	}
	if v.Journal == nil {
		v.Journal = handoff.NewMemory()
	}
	if v.Observe == nil {
		v.Observe = func(report.Event) {}
	}
	return v, v.check()
}

func (o *Options) check() error {
	switch {
	case o.ChunkSize < 4096 || o.ChunkSize > transport.MaxChunk:
		return fmt.Errorf("writer: Options.ChunkSize is %d, must be 4096 to %d", o.ChunkSize, transport.MaxChunk)
	case o.Memory < o.ChunkSize:
		return fmt.Errorf("writer: Options.Memory is %d, less than one chunk of %d", o.Memory, o.ChunkSize)
	case o.MaxState > transport.MaxStream:
		return fmt.Errorf("writer: Options.MaxState is %d, at most %d", o.MaxState, uint64(transport.MaxStream))
	}
	return nil
}

func checkSinks(sinks []Sink) error {
	if len(sinks) == 0 || len(sinks) > transport.MaxDevices {
		return fmt.Errorf("writer: %d devices, must be 1 to %d", len(sinks), transport.MaxDevices)
	}
	seen := map[string]bool{}
	for i, s := range sinks {
		switch {
		case s.Device == nil:
			return fmt.Errorf("writer: device %d (%q) is nil", i, s.Name)
		case s.Name == "" || len(s.Name) > transport.MaxName:
			return fmt.Errorf("writer: device %d has the name %q, must be 1 to %d bytes", i, s.Name, transport.MaxName)
		case seen[s.Name]:
			return fmt.Errorf("writer: two devices have the name %q", s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}
