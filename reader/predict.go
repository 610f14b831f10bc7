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
	left        amount  // bytes that are not at the destination when it is paused
	save, load  float64 // bytes per second that the device gives, and takes
	stop, start report.Span
}

// path is what is known of the way to the destination.
type path struct {
	chunk uint64      // bytes that travel together
	rate  float64     // bytes per second over all lanes; 0 unknown
	rtt   report.Span // of a control message and its answer
}

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
		ahead, left, first = ahead.plus(f.precopy), left.plus(f.left), max(first, min(f.left.bytes, p.chunk))
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
	all.Wire, all.Commit = lasting(rest, p.rate), p.rtt
	sum(&all)
	return all, each
}

// device is the prediction for one device that has the path for itself.
func (p path) device(f figures) report.Prediction {
	first, rest := f.left.split(p.chunk)
	one := report.Prediction{
		Precopy: longest(lasting(f.precopy, f.save), lasting(f.precopy, p.rate), lasting(f.precopy, f.load)),
		Stop:    f.stop,
		Fill:    plus(lasting(first, f.save), lasting(first, p.rate), report.Span{Took: p.rtt.Took / 2, Known: p.rtt.Known}),
		Save:    lasting(rest, f.save),
		Wire:    lasting(rest, p.rate),
		Load:    lasting(rest, f.load),
		Last:    lasting(first, f.load), // as long as the first
		Commit:  p.rtt,
		Start:   f.start,
	}
	sum(&one)
	return one
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

// lasting is how long an amount takes at a rate. Nothing takes no time at any.
func lasting(a amount, rate float64) report.Span {
	if a.bytes == 0 {
		return report.Span{Known: a.known}
	}
	if rate <= 0 {
		return report.Span{}
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
