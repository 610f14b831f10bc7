package plan

import (
	"math"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// Amount is a number of bytes: exactly that many or, if not Known, at least that many.
type Amount struct {
	Bytes uint64
	Known bool
}

// DeviceFigures are the figures of one device. A zero value is unknown.
type DeviceFigures struct {
	Precopy     Amount  // bytes that go while the guest runs
	Remaining   Amount  // bytes that are still to be read after the pause
	Hidden      uint64  // bytes that were read before the pause, and are not applied
	Save, Load  float64 // bytes per second that the device yields, and takes
	Stop, Start migration.Span
}

// Path is the measurement of the path to the destination.
type Path struct {
	Chunk uint64         // bytes of a chunk
	Rate  float64        // bytes per second over all lanes; 0 is unknown
	Full  bool           // the lanes were full: Rate is their limit
	RTT   migration.Span // of a control message and its answer
	Steps Steps          // of a switchover: the parts that do not depend on a rate

	worst bool // a device loads no part of a record before it has the whole record
}

// Steps are the parts of a switchover that do not depend on a rate. The zero value has none.
type Steps struct {
	Stop    migration.Step // of the devices
	Pause   migration.Step // of the guest
	Journal migration.Step // three records, of both sides
	Decide  migration.Step // the owner's decision
	Witness migration.Step
	Accept  migration.Step // the hook on ACCEPT
	Start   migration.Step // of the devices
	Guest   migration.Step // the start of the guest
}

// NameUnknown names the steps whose time neither side knows. It leaves out the stop and the start
// of devices: other transitions stand in for those, see forecast.
func (s Steps) NameUnknown() (names []string) {
	for _, one := range []struct {
		name string
		migration.Step
	}{{"the pause of the guest", s.Pause}, {"the owner's decision", s.Decide}, {"the witness", s.Witness},
		{"on-accept", s.Accept}, {"the start of the guest", s.Guest}} {
		if one.Unknown {
			names = append(names, one.name)
		}
	}
	return names
}

// moving is how many bytes have still to reach the destination's device.
func (f DeviceFigures) moving() Amount { return f.Remaining.add(Amount{f.Hidden, true}) }

// record is how many bytes a device may save before the first of them can be read, and take before
// it loads them: mlx5 saves into buffers of 8 MiB, and its LOAD runs in the write that completes a
// record.
const record = 8 << 20

// burst is how many bytes go at once over any path and into any device, at any rate.
const burst = 64 << 10

// Predict predicts how long a migration takes. It is the time of a pipeline: the first chunk passes
// every stage, then the slowest stage sets the pace. Devices are saved and loaded at the same time,
// and share the wire.
func Predict(devices []DeviceFigures, p Path) migration.Prediction {
	none := migration.Span{Known: true}
	set := work{precopy: none, stop: none, fill: none, save: none, load: none, last: none, commit: p.commitTime(), start: none, steps: p.Steps}
	ahead, remaining, first := Amount{Known: true}, Amount{Known: true}, uint64(0)
	for _, f := range devices {
		one, moving := p.workOf(f), f.moving()
		ahead, remaining, first = ahead.add(f.Precopy), remaining.add(moving), max(first, min(moving.Bytes, p.Chunk))
		set.precopy = longest(set.precopy, one.precopy)
		set.stop = longest(set.stop, one.stop)
		set.fill = longest(set.fill, one.fill)
		set.save = longest(set.save, one.save)
		set.load = longest(set.load, one.load)
		set.last = longest(set.last, one.last)
		set.start = longest(set.start, one.start)
	}
	set.precopy = longest(set.precopy, timeFor(ahead, p.Rate))
	_, rest := remaining.split(first)
	set.wire = timeFor(rest, p.Rate)
	return set.inRow()
}

// PredictAlone is the prediction for a device that is the only one.
func (p Path) PredictAlone(f DeviceFigures) migration.Prediction { return p.workOf(f).inRow() }

// work is how long each part of a migration is busy. save, wire and load overlap, on all bytes but
// the first and the last of the stream.
type work struct {
	precopy             migration.Span
	stop, fill          migration.Span
	save, wire, load    migration.Span
	last, commit, start migration.Span
	steps               Steps
}

// workOf is the work of one device that has the path for itself.
func (p Path) workOf(f DeviceFigures) work {
	first, rest := f.moving().split(p.Chunk)
	saved, unsaved := f.Remaining.split(record)
	final, before := f.moving().split(p.lastBytes())
	return work{
		precopy: longest(timeFor(f.Precopy, f.Save), timeFor(f.Precopy, p.Rate), timeFor(f.Precopy, f.Load)),
		stop:    f.Stop,
		fill:    migration.AddSpans(timeFor(saved, f.Save), timeFor(first, p.Rate), migration.Span{Took: p.RTT.Took / 2, Known: p.RTT.Known}),
		save:    timeFor(unsaved, f.Save),
		wire:    timeFor(rest, p.Rate),
		load:    timeFor(before, f.Load),
		last:    timeFor(final, f.Load),
		commit:  p.commitTime(),
		start:   f.Start,
		steps:   p.Steps,
	}
}

// inRow lays overlapping work out in a row.
func (w work) inRow() migration.Prediction {
	r := migration.Prediction{
		Precopy: w.precopy, Stop: migration.AddSpans(w.steps.Pause.Span(), w.stop), Fill: w.fill, Save: w.save, Wire: timeBeyond(w.wire, w.save),
		Load:   migration.AddSpans(timeBeyond(w.load, longest(w.save, w.wire)), w.last),
		Decide: w.steps.Decide, Commit: w.commit, Witness: w.steps.Witness, Accept: w.steps.Accept,
		Start: migration.AddSpans(w.start, w.steps.Guest.Span()),
	}
	r.Downtime = migration.AddSpans(r.Stop, r.Fill, r.Save, r.Wire, r.Load, r.Decide.Span(), r.Commit, r.Witness.Span(), r.Accept.Span(), r.Start)
	r.Total = migration.AddSpans(r.Precopy, r.Downtime)
	return r
}

// lastBytes is how many bytes a device loads after all of them have arrived.
func (p Path) lastBytes() uint64 {
	if p.worst {
		return record
	}
	return p.Chunk
}

// commitTime is the time for READY, COMMIT and its answer, with the records that are written before
// each of them.
func (p Path) commitTime() migration.Span {
	return migration.AddSpans(migration.Span{Took: p.RTT.Took * 3 / 2, Known: p.RTT.Known}, p.Steps.Journal.Span())
}

// predictFixed predicts a switchover without any bytes: the part that no PRE_COPY shortens.
func (p Path) predictFixed(stop, start migration.Span) migration.Prediction {
	return p.PredictAlone(DeviceFigures{Precopy: Amount{Known: true}, Remaining: Amount{Known: true}, Stop: stop, Start: start})
}

func (a Amount) add(b Amount) Amount {
	return Amount{a.Bytes + min(b.Bytes, math.MaxUint64-a.Bytes), a.Known && b.Known}
}

// split cuts the first chunk off an Amount.
func (a Amount) split(chunk uint64) (first, rest Amount) {
	n := min(a.Bytes, chunk)
	return Amount{n, a.Known || n == chunk}, Amount{a.Bytes - n, a.Known}
}

// longestSpan prevents an overflow in sums of absurd estimates.
const longestSpan = math.MaxInt64 / 1e3

// timeFor is how long an Amount takes at a rate. A burst takes no time if the rate is unknown.
func timeFor(a Amount, rate float64) migration.Span {
	if a.Bytes == 0 || rate <= 0 {
		return migration.Span{Known: a.Known && a.Bytes <= burst}
	}
	took := min(float64(a.Bytes)/rate*float64(time.Second), longestSpan)
	return migration.Span{Took: time.Duration(took), Known: a.Known}
}

// longest is the time of spans that run at the same time. If one of them is unknown, the result is
// a lower bound.
func longest(spans ...migration.Span) migration.Span {
	most := migration.Span{Known: true}
	for _, s := range spans {
		most.Took = max(most.Took, s.Took)
		most.Known = most.Known && s.Known
	}
	return most
}

// timeBeyond is how much longer a span is than another that runs at the same time.
func timeBeyond(s, other migration.Span) migration.Span {
	return migration.Span{Took: max(0, s.Took-other.Took), Known: s.Known}
}

// ackEvery is how long the destination may take to report the bytes that it has applied.
const ackEvery = 10 * time.Millisecond

// window is how many bytes may be read and not applied while the guest runs, 0 for no limit: enough
// to keep the path busy, and at most a quarter of the bytes that fit the downtime. It is at least
// two chunks: one moves while the other is applied.
func (p Path) window(downtime time.Duration) uint64 {
	if p.Rate <= 0 {
		return 0
	}
	busy := 2 * p.Rate * (p.RTT.Took + ackEvery).Seconds()
	return max(uint64(min(busy, p.Rate*downtime.Seconds()/4)), 2*p.Chunk)
}
