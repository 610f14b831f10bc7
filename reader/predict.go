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
	full  bool        // by more than was to be sent, and so what they can
	rtt   report.Span // of a control message and its answer
	steps steps       // of a stop, that no rate says the length of
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

// predict says how long a migration is going to take. It is a pipeline's time: the
// first chunk goes through every stage, then the slowest of them sets the pace.
// Devices are saved and loaded beside each other, and share the wire.
func predict(devices []figures, p path) report.Prediction {
	none := report.Span{Known: true}
	set := work{precopy: none, stop: none, fill: none, save: none, load: none, last: none, commit: p.commit(), start: none, steps: p.steps}
	ahead, left, first := amount{known: true}, amount{known: true}, uint64(0)
	for _, f := range devices {
		one, moving := p.device(f), f.moving()
		ahead, left, first = ahead.plus(f.precopy), left.plus(moving), max(first, min(moving.bytes, p.chunk))
		set.precopy = longest(set.precopy, one.precopy)
		set.stop = longest(set.stop, one.stop)
		set.fill = longest(set.fill, one.fill)
		set.save = longest(set.save, one.save)
		set.load = longest(set.load, one.load)
		set.last = longest(set.last, one.last)
		set.start = longest(set.start, one.start)
	}
	set.precopy = longest(set.precopy, lasting(ahead, p.rate))
	_, rest := left.split(first)
	set.wire = lasting(rest, p.rate)
	return set.prediction()
}

// alone is the prediction for a device as if it were the only one.
func (p path) alone(f figures) report.Prediction { return p.device(f).prediction() }

// work is how long each part of a migration is busy: save, wire and load beside
// each other, on all but the first and the last of the stream.
type work struct {
	precopy             report.Span
	stop, fill          report.Span
	save, wire, load    report.Span
	last, commit, start report.Span
	steps               steps
}

// device is the work of one device that has the path for itself.
func (p path) device(f figures) work {
	first, rest := f.moving().split(p.chunk)
	saved, unsaved := f.left.split(record)
	final, before := f.moving().split(p.last())
	return work{
		precopy: longest(lasting(f.precopy, f.save), lasting(f.precopy, p.rate), lasting(f.precopy, f.load)),
		stop:    f.stop,
		fill:    plus(lasting(saved, f.save), lasting(first, p.rate), report.Span{Took: p.rtt.Took / 2, Known: p.rtt.Known}),
		save:    lasting(unsaved, f.save),
		wire:    lasting(rest, p.rate),
		load:    lasting(before, f.load),
		last:    lasting(final, f.load),
		commit:  p.commit(),
		start:   f.start,
		steps:   p.steps,
	}
}

// prediction puts what is busy at the same time into a row.
func (w work) prediction() report.Prediction {
	r := report.Prediction{
		Precopy: w.precopy, Stop: plus(w.steps.pause.Span(), w.stop), Fill: w.fill, Save: w.save, Wire: beyond(w.wire, w.save),
		Load:   plus(beyond(w.load, longest(w.save, w.wire)), w.last),
		Decide: w.steps.decide, Commit: w.commit, Witness: w.steps.witness, Accept: w.steps.accept,
		Start: plus(w.start, w.steps.guest.Span()),
	}
	r.Downtime = plus(r.Stop, r.Fill, r.Save, r.Wire, r.Load, r.Decide.Span(), r.Commit, r.Witness.Span(), r.Accept.Span(), r.Start)
	r.Total = plus(r.Precopy, r.Downtime)
	return r
}

// last is how much a device loads after all of it has arrived.
func (p path) last() uint64 {
	if p.worst {
		return record
	}
	return p.chunk
}

// commit is READY's way back, and COMMIT and its answer, with the records that are
// written before each of them.
func (p path) commit() report.Span {
	return plus(report.Span{Took: p.rtt.Took * 3 / 2, Known: p.rtt.Known}, p.steps.journal.Span())
}

// fixed is a stop in which nothing is left to be moved: what no PRE_COPY shortens.
func (p path) fixed(stop, start report.Span) report.Prediction {
	return p.alone(figures{precopy: amount{known: true}, left: amount{known: true}, stop: stop, start: start})
}

func (a amount) plus(b amount) amount {
	return amount{a.bytes + min(b.bytes, math.MaxUint64-a.bytes), a.known && b.known}
}

// split takes the first chunk off an amount.
func (a amount) split(chunk uint64) (first, rest amount) {
	n := min(a.bytes, chunk)
	return amount{n, a.known || n == chunk}, amount{a.bytes - n, a.known}
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

// beyond is how much longer than other a span beside it is.
func beyond(s, other report.Span) report.Span {
	return report.Span{Took: max(0, s.Took-other.Took), Known: s.Known}
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
