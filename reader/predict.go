package reader

import (
	"math"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

// amount is a number of bytes: that many or, where not all of them are known,
// at least that many.
type amount struct {
	bytes uint64
	known bool
}

// figures are what is known of one device. The zero value of each is that
// nothing is.
type figures struct {
	precopy     amount  // bytes that go while the guest runs
	left        amount  // bytes that are still to be read when it is paused
	hidden      uint64  // bytes that were read by then, and are not applied
	save, load  float64 // bytes per second that the device gives, and takes
	stop, start report.Span
}

// path is what is known of the way to the destination.
type path struct {
	chunk uint64      // bytes that travel together
	worst bool        // and a device loads no part of a record before it has the whole
	rate  float64     // bytes per second over all lanes; 0 unknown
	rtt   report.Span // of a control message and its answer
}

// moving is what has to reach the destination's device yet.
func (f figures) moving() amount { return f.left.plus(amount{f.hidden, true}) }

// record is how many bytes a device may save before the first of them can be read,
// and take before it loads them: mlx5 saves into buffers of 8 MiB, and its LOAD
// runs in the write that completes a record.
const record = 8 << 20

// burst is how many bytes go at once over any path and into any device: what
// their rates are does not matter.
const burst = 64 << 10

// predict says how long a migration is going to take, in all and for each device
// as if it were alone. It is a pipeline's time: the first chunk goes through every
// stage, then the slowest of them sets the pace. Devices are saved and loaded
// beside each other, and share the wire.
func predict(devices []figures, p path) (all report.Prediction, each []report.Prediction) {
	none := report.Span{Known: true}
	all = report.Prediction{Precopy: none, Stop: none, Fill: none, Save: none, Wire: none, Load: none, Last: none, Start: none}
	ahead, left, first := amount{known: true}, amount{known: true}, uint64(0)
	for _, f := range devices {
		one := p.device(f)
		each = append(each, one)
		moving := f.moving()
		ahead, left, first = ahead.plus(f.precopy), left.plus(moving), max(first, min(moving.bytes, p.chunk))
		all.Precopy = longest(all.Precopy, one.Precopy)
		all.Stop = longest(all.Stop, one.Stop)
		all.Fill = longest(all.Fill, one.Fill)
		all.Save = longest(all.Save, one.Save)
		all.Load = longest(all.Load, one.Load)
		all.Last = longest(all.Last, one.Last)
		all.Start = longest(all.Start, one.Start)
	}
	all.Precopy = longest(all.Precopy, lasting(ahead, p.rate))
	_, rest := left.split(first)
	all.Wire, all.Commit = lasting(rest, p.rate), p.commit()
	sum(&all)
	return all, each
}

// device is the prediction for one device that has the path for itself.
func (p path) device(f figures) report.Prediction {
	first, rest := f.moving().split(p.chunk)
	saved, unsaved := f.left.split(record)
	final, before := f.moving().split(p.last())
	one := report.Prediction{
		Precopy: longest(lasting(f.precopy, f.save), lasting(f.precopy, p.rate), lasting(f.precopy, f.load)),
		Stop:    f.stop,
		Fill:    plus(lasting(saved, f.save), lasting(first, p.rate), report.Span{Took: p.rtt.Took / 2, Known: p.rtt.Known}),
		Save:    lasting(unsaved, f.save),
		Wire:    lasting(rest, p.rate),
		Load:    lasting(before, f.load),
		Last:    lasting(final, f.load),
		Commit:  p.commit(),
		Start:   f.start,
	}
	sum(&one)
	return one
}

// last is how much a device loads after all of it has arrived.
func (p path) last() uint64 {
	if p.worst {
		return record
	}
	return p.chunk
}

// commit is READY's way back, and COMMIT and its answer.
func (p path) commit() report.Span {
	return report.Span{Took: p.rtt.Took * 3 / 2, Known: p.rtt.Known}
}

func (a amount) plus(b amount) amount {
	return amount{a.bytes + min(b.bytes, math.MaxUint64-a.bytes), a.known && b.known}
}

// split takes the first chunk off an amount.
func (a amount) split(chunk uint64) (first, rest amount) {
	n := min(a.bytes, chunk)
	return amount{n, a.known || n == chunk}, amount{a.bytes - n, a.known}
}

func sum(r *report.Prediction) {
	r.Downtime = plus(r.Stop, r.Fill, longest(r.Save, r.Wire, r.Load), r.Last, r.Commit, r.Start)
	r.Total = plus(r.Precopy, r.Downtime)
}

// longestSpan keeps sums of absurd estimates from overflowing.
const longestSpan = math.MaxInt64 / 1e3

// lasting is how long an amount takes at a rate. A burst takes no time where none
// is known.
func lasting(a amount, rate float64) report.Span {
	if a.bytes == 0 || rate <= 0 {
		return report.Span{Known: a.known && a.bytes <= burst}
	}
	took := min(float64(a.bytes)/rate*float64(time.Second), longestSpan)
	return report.Span{Took: time.Duration(took), Known: a.known}
}

// plus is spans one after the other.
func plus(spans ...report.Span) report.Span {
	total := report.Span{Known: true}
	for _, s := range spans {
		total.Took += s.Took
		total.Known = total.Known && s.Known
	}
	return total
}

// longest is spans beside each other. One of which not all is known may be
// longer than it seems.
func longest(spans ...report.Span) report.Span {
	most := report.Span{Known: true}
	for _, s := range spans {
		most.Took = max(most.Took, s.Took)
		most.Known = most.Known && s.Known
	}
	return most
}

// ackEvery is how long the destination may take to tell what it has applied.
const ackEvery = 10 * time.Millisecond

// window is what may be read and not applied while the guest runs, 0 for no
// limit: enough to keep the path busy, and no more than a quarter of the downtime
// can carry. It is at least two chunks: one moves while the other is applied.
func (p path) window(downtime time.Duration) uint64 {
	if p.rate <= 0 {
		return 0
	}
	busy := 2 * p.rate * (p.rtt.Took + ackEvery).Seconds()
	return max(uint64(min(busy, p.rate*downtime.Seconds()/4)), 2*p.chunk)
}
