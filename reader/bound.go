package reader

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

// laneTimes are what all lanes' senders have spent so far, in ns.
type laneTimes struct {
	encoding atomic.Int64
	writing  atomic.Int64 // and waiting for the bandwidth that they may use
}

func (t *laneTimes) encoded(d time.Duration) { t.encoding.Add(int64(d)) }
func (t *laneTimes) wrote(d time.Duration)   { t.writing.Add(int64(d)) }

// progress is how far the queue, the lanes and the destination's devices have come:
// times and counts that only grow.
type progress struct {
	usage
	encoding, writing time.Duration
	loading           []time.Duration // by device
}

// since is the way from before to p, of which fill is told. The zero progress is the
// beginning.
func (p progress) since(before progress) progress {
	p.at -= before.at
	p.ready, p.held, p.taken = p.ready-before.ready, p.held-before.held, p.taken-before.taken
	for i := range p.waited {
		p.waited[i] -= before.waited[i]
	}
	p.encoding, p.writing = p.encoding-before.encoding, p.writing-before.writing
	p.loading = slices.Clone(p.loading)
	for i := range before.loading {
		p.loading[i] -= before.loading[i]
	}
	return p
}

// fill is what that comes to, of a memory of so many chunks.
func (p progress) fill(chunks int) report.Fill {
	if p.at <= 0 {
		return report.Fill{}
	}
	part := func(full float64) float64 { return max(0, full) / (float64(chunks) * p.at.Seconds()) }
	return report.Fill{Queue: part(p.ready), Credit: part(p.held), Flight: part(p.taken), Bottleneck: bottleneck(p)}
}

// rarely is the part of a time, one in so many, below which waiting says nothing: a
// device in PRE_COPY that has nothing to give is asked again and again.
const rarely = 50

// bottleneck names what was waited for. A destination that was waited for had no memory
// as long as its slowest device was busy; else its answer was on the way, as the chunks
// were.
func bottleneck(p progress) string {
	load := min(p.waited[forPeer], slices.Max(append(p.loading, 0)))
	network, codec := p.waited[forPeer]-load, time.Duration(0)
	if p.encoding > p.writing {
		codec = p.waited[forLane]
	} else {
		network += p.waited[forLane]
	}
	all := p.waited[forDevice] + codec + network + load
	if all <= p.at/rarely {
		return ""
	}
	for _, s := range []struct {
		name   string
		waited time.Duration
	}{{report.BoundSave, p.waited[forDevice]}, {report.BoundCodec, codec}, {report.BoundNetwork, network}, {report.BoundLoad, load}} {
		if s.waited > all/2 {
			return s.name
		}
	}
	return report.Balanced
}

// lately is the time that progress tells of: a second at least, once there was one.
const lately = time.Second

// recent remembers where the time that is told of began, and where the next one does.
type recent struct{ from, next progress }

// look is how it went lately.
func (r *recent) look(now progress, chunks int) report.Fill {
	if now.at-r.next.at >= lately {
		r.from, r.next = r.next, now
	}
	return now.since(r.from).fill(chunks)
}
