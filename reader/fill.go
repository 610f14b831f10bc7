package reader

import "time"

// levels is where the chunks of the queue's memory are. What is in none of these is
// free; so is, for the moment that its lane takes, a chunk that was acknowledged before
// its lane has said that it is sent.
type levels struct {
	reading int // a device is being read into it
	ready   int // it waits for a lane
	held    int // it waits for credit, or behind one that does
	leaving int // of kept, or just acknowledged: a lane has it
	kept    int // in all lines: ready, held, and those that were taken and not acknowledged
}

// waiting is what holds everything up.
type waiting uint8

const (
	forNothing waiting = iota // nothing is to be moved
	forDevice                 // to be read
	forLane                   // every one has a chunk, or those that have are all that is left
	forPeer                   // the destination: its memory, or its acknowledgement
	waitings
)

// waits says what everything waits for now: the last stage that has something before
// it. A stage that waits for the one before it holds nothing up.
func (l levels) waits() waiting {
	switch {
	case l.ready > 0:
		return forLane
	case l.held > 0:
		return forPeer
	case l.reading > 0:
		return forDevice
	case l.leaving > 0:
		return forLane
	case l.kept > 0:
		return forPeer
	}
	return forNothing
}

// counted is what usage is made from: most changes of a full queue's levels leave the
// waiting as it is, and are not worth a look at the clock.
type counted struct {
	ready, held, taken int
	waiting
}

func (l levels) counted() counted {
	return counted{l.ready, l.held, l.kept - l.ready - l.held, l.waits()}
}

// fill is how full the queue is, and was. The queue's lock guards it.
type fill struct {
	chunks int // there are
	start  time.Time
	now    levels
	was    counted // since sum.at
	sum    usage
}

// usage is what the levels were, over a time.
type usage struct {
	at                 time.Duration // since the queue is there
	ready, held, taken float64       // chunks times seconds
	waited             [waitings]time.Duration
}

func newFill(chunks int) fill { return fill{chunks: chunks, start: time.Now()} }

// sort takes in what the chunks of a line wait for: the first of them has credit or not.
func (f *fill) sort(l *line, credit bool) {
	f.now.ready, f.now.held = f.now.ready-l.ready, f.now.held-l.held
	l.ready, l.held = 0, l.count
	if credit {
		l.ready, l.held = l.count, 0
	}
	f.now.ready, f.now.held = f.now.ready+l.ready, f.now.held+l.held
}

// turn ends the time of what was, if that has changed.
func (f *fill) turn(kept int) {
	f.now.kept = kept
	if is := f.now.counted(); is != f.was {
		f.count()
		f.was = is
	}
}

// count adds the time up to now.
func (f *fill) count() {
	at := time.Since(f.start)
	took, s := at-f.sum.at, &f.sum
	s.ready += float64(f.was.ready) * took.Seconds()
	s.held += float64(f.was.held) * took.Seconds()
	s.taken += float64(f.was.taken) * took.Seconds()
	s.waited[f.was.waiting] += took
	s.at = at
}
