package reader

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/occupancy"
	"github.com/migpipe/migpipe/transport/migration"
)

// laneTimes are the times that all senders have spent so far, in ns.
type laneTimes struct {
	encoding atomic.Int64
	writing  atomic.Int64 // and waiting for their share of the bandwidth
}

func (t *laneTimes) encoded(d time.Duration) { t.encoding.Add(int64(d)) }
func (t *laneTimes) wrote(d time.Duration)   { t.writing.Add(int64(d)) }

// progress is the progress of the queue, the lanes and the destination's devices: times and counts
// that only grow.
type progress struct {
	occupancy.Usage
	encoding, writing time.Duration
	loading           []time.Duration // by device
}

// Elapsed implements [occupancy.Progress].
func (p progress) Elapsed() time.Duration { return p.Took }

// Since implements [occupancy.Progress].
func (p progress) Since(before progress) progress {
	p.Usage = p.Usage.Since(before.Usage)
	p.encoding, p.writing = p.encoding-before.encoding, p.writing-before.writing
	p.loading = slices.Clone(p.loading)
	for i := range before.loading {
		p.loading[i] -= before.loading[i]
	}
	return p
}

// Occupancy implements [occupancy.Progress].
func (p progress) Occupancy(chunks int) migration.Occupancy {
	o := p.Mean(chunks)
	o.Bottleneck = bottleneck(p)
	return o
}

// rarely is the fraction of a time, one in so many, below which waiting means nothing: a device in
// PRE_COPY with nothing to give is polled again and again.
const rarely = 50

// bottleneck names the stage that the others waited for. A wait for the destination has two causes.
// As long as the slowest device was loading, the destination had no memory; for the rest of the
// time its answer was on the network.
func bottleneck(p progress) string {
	load := min(p.Waited[occupancy.ForPeer], slices.Max(append(p.loading, 0)))
	network, codec := p.Waited[occupancy.ForPeer]-load, time.Duration(0)
	if p.encoding > p.writing {
		codec = p.Waited[occupancy.ForLane]
	} else {
		network += p.Waited[occupancy.ForLane]
	}
	all := p.Waited[occupancy.ForDevice] + codec + network + load
	if all <= p.Took/rarely {
		return ""
	}
	for _, s := range []struct {
		name   string
		waited time.Duration
	}{{migration.BoundSave, p.Waited[occupancy.ForDevice]}, {migration.BoundCodec, codec}, {migration.BoundNetwork, network}, {migration.BoundLoad, load}} {
		if s.waited > all/2 {
			return s.name
		}
	}
	return migration.Balanced
}
