package writer

import (
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

// fill is how full one device's part of the memory is, and was. The lock of its merge
// guards it.
type fill struct {
	start   time.Time
	upTo    uint64 // chunks numbered below have come, this one has not
	dropped bool   // nothing is there any more
	was     levels // since sum.at
	sum     usage
}

// levels is where a device's chunks are. The memory in neither is free.
type levels struct {
	queue uint64 // in order, until the device has them
	ahead uint64 // come before one that has not
}

// usage is what the levels were, over a time.
type usage struct {
	at           time.Duration // since the merge is there
	queue, ahead float64       // chunks times seconds
	busy         time.Duration // there was something for the device
	came         uint64        // chunks
}

// count adds the time up to now.
func (f *fill) count() {
	at := time.Since(f.start)
	took := at - f.sum.at
	f.sum.queue += float64(f.was.queue) * took.Seconds()
	f.sum.ahead += float64(f.was.ahead) * took.Seconds()
	if f.was.queue > 0 {
		f.sum.busy += took
	}
	f.sum.at = at
}

func (u usage) since(before usage) usage {
	return usage{u.at - before.at, u.queue - before.queue, u.ahead - before.ahead, u.busy - before.busy, u.came - before.came}
}

// progress is how far every device has come.
type progress []usage

// at is when that was, since the beginning.
func (p progress) at() (at time.Duration) {
	for _, u := range p {
		at = max(at, u.at)
	}
	return at
}

// since is the way from before to p; nil is the beginning.
func (p progress) since(before progress) progress {
	way := slices.Clone(p)
	for i := range before {
		way[i] = way[i].since(before[i])
	}
	return way
}

// fill is what that comes to, of a memory of so many chunks.
func (p progress) fill(chunks int) (f report.Fill) {
	for _, u := range p {
		if u.at > 0 {
			all := float64(chunks) * u.at.Seconds()
			f.Queue, f.Ahead = f.Queue+max(0, u.queue)/all, f.Ahead+max(0, u.ahead)/all
		}
	}
	f.Bottleneck = bottleneck(p)
	return f
}

// bottleneck names what was waited for: the slowest device, if it always had something
// to load, and else what is before it, as long as anything moves.
func bottleneck(p progress) string {
	var busy time.Duration
	var came uint64
	for _, u := range p {
		busy, came = max(busy, u.busy), came+u.came
	}
	switch {
	case busy > p.at()/2:
		return report.BoundLoad
	case busy > 0 || came > 0:
		return report.BoundArrival
	}
	return ""
}

// lately is the time that progress tells of: a second at least, once there was one.
const lately = time.Second

// recent remembers where the time that is told of began, and where the next one does.
type recent struct{ from, next progress }

// look is how it went lately.
func (r *recent) look(now progress, chunks int) report.Fill {
	if now.at()-r.next.at() >= lately {
		r.from, r.next = r.next, now
	}
	return now.since(r.from).fill(chunks)
}
