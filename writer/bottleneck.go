package writer

import (
	"slices"
	"time"

	"github.com/migpipe/migpipe/internal/occupancy"
	"github.com/migpipe/migpipe/transport/migration"
)

// usage is the occupancy of one device's part of the memory, over a time.
type usage struct {
	occupancy.Usage
	delivered uint64 // chunks
}

// progress is the progress of every device.
type progress []usage

// Elapsed implements [occupancy.Progress].
func (p progress) Elapsed() (at time.Duration) {
	for _, u := range p {
		at = max(at, u.Took)
	}
	return at
}

// Since implements [occupancy.Progress].
func (p progress) Since(before progress) progress {
	way := slices.Clone(p)
	for i, b := range before {
		way[i] = usage{way[i].Usage.Since(b.Usage), way[i].delivered - b.delivered}
	}
	return way
}

// Occupancy implements [occupancy.Progress]: the devices share the memory.
func (p progress) Occupancy(chunks int) (o migration.Occupancy) {
	for _, u := range p {
		one := u.Mean(chunks)
		o.Queue, o.Ahead = o.Queue+one.Queue, o.Ahead+one.Ahead
	}
	o.Bottleneck = bottleneck(p)
	return o
}

// bottleneck names the stage that the others waited for: the slowest device, if it was loading most
// of the time, and otherwise the stages before it, as long as bytes move.
func bottleneck(p progress) string {
	var busy time.Duration
	var came uint64
	for _, u := range p {
		busy, came = max(busy, u.Waited[occupancy.ForLoad]), came+u.delivered
	}
	switch {
	case busy > p.Elapsed()/2:
		return migration.BoundLoad
	case busy > 0 || came > 0:
		return migration.BoundArrival
	}
	return ""
}
