// Package occupancy measures how full the stages of one side are over a time, and what
// everything there waits for.
package occupancy

import (
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// Waiting is what everything waits for at one moment.
type Waiting uint8

// What a side waits for.
const (
	ForNothing Waiting = iota // nothing is to be moved
	ForDevice                 // a device is to be read
	ForLane                   // every lane has a chunk, or those that have one are all that is left
	ForPeer                   // the destination's memory, or its acknowledgement
	ForLoad                   // a device is to be written
	waitings
)

// Levels are numbers of chunks by the stage that they are in, as in [migration.Occupancy].
type Levels struct {
	Queue, Credit, Flight, Ahead int
	Waiting                      Waiting
}

// Usage is what the levels were over a time.
type Usage struct {
	Took                         time.Duration
	Queue, Credit, Flight, Ahead float64                 // chunks times seconds
	Waited                       [waitings]time.Duration // by what for
}

// Since gives the part of u that came after before.
func (u Usage) Since(before Usage) Usage {
	u.Took -= before.Took
	u.Queue, u.Credit, u.Flight, u.Ahead = u.Queue-before.Queue, u.Credit-before.Credit, u.Flight-before.Flight, u.Ahead-before.Ahead
	for i := range u.Waited {
		u.Waited[i] -= before.Waited[i]
	}
	return u
}

// Of gives the mean occupancy of a memory of so many chunks, without a bottleneck.
func (u Usage) Of(chunks int) migration.Occupancy {
	if u.Took <= 0 {
		return migration.Occupancy{}
	}
	part := func(full float64) float64 { return max(0, full) / (float64(chunks) * u.Took.Seconds()) }
	return migration.Occupancy{Queue: part(u.Queue), Credit: part(u.Credit), Flight: part(u.Flight), Ahead: part(u.Ahead)}
}

// Gauge adds up the levels of a memory for chunks. Its owner's lock guards it.
type Gauge struct {
	start time.Time
	now   Levels // since sum.Took
	sum   Usage
}

// NewGauge begins with an empty memory.
func NewGauge() Gauge { return Gauge{start: time.Now()} }

// Set takes in the levels from now on. It looks at the clock only if they are others.
func (g *Gauge) Set(l Levels) {
	if l != g.now {
		g.count()
		g.now = l
	}
}

// Usage gives that of all the time so far.
func (g *Gauge) Usage() Usage {
	g.count()
	return g.sum
}

func (g *Gauge) count() {
	at := time.Since(g.start)
	took, s := at-g.sum.Took, &g.sum
	s.Queue += float64(g.now.Queue) * took.Seconds()
	s.Credit += float64(g.now.Credit) * took.Seconds()
	s.Flight += float64(g.now.Flight) * took.Seconds()
	s.Ahead += float64(g.now.Ahead) * took.Seconds()
	s.Waited[g.now.Waiting] += took
	s.Took = at
}

// Progress is how far a side has come: times and counts that only grow. Its zero value is the
// beginning.
type Progress[P any] interface {
	Elapsed() time.Duration
	Since(before P) P
	Occupancy(chunks int) migration.Occupancy
}

// lately is the time that Recent looks back: a second at least, once there was one.
const lately = time.Second

// Recent remembers where the time that it looks back began, and where the next one does.
type Recent[P Progress[P]] struct{ from, next P }

// Look gives the occupancy lately, of a memory of so many chunks.
func (r *Recent[P]) Look(now P, chunks int) migration.Occupancy {
	if now.Elapsed()-r.next.Elapsed() >= lately {
		r.from, r.next = r.next, now
	}
	return now.Since(r.from).Occupancy(chunks)
}
