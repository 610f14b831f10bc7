// Package occupancy measures how full the stages of a side are over a time, and what the side
// waits for.
package occupancy

import (
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// Waiting is the cause for which a side waits at a moment.
type Waiting uint8

// The causes.
const (
	ForNothing Waiting = iota // there are no bytes to transfer
	ForDevice                 // the read of a device
	ForLane                   // the lanes, which transfer all remaining chunks or have a chunk each
	ForPeer                   // the destination's memory or acknowledgement
	ForLoad                   // the write of a device
	waitings
)

// Levels are the numbers of chunks in each stage, as in [migration.Occupancy].
type Levels struct {
	Queue, Credit, Flight, Ahead int
	Waiting                      Waiting
}

// Usage is the sum of the levels over a time.
type Usage struct {
	Took                         time.Duration
	Queue, Credit, Flight, Ahead float64                 // chunks times seconds
	Waited                       [waitings]time.Duration // by cause
}

// Since returns the part of u after before.
func (u Usage) Since(before Usage) Usage {
	u.Took -= before.Took
	u.Queue, u.Credit, u.Flight, u.Ahead = u.Queue-before.Queue, u.Credit-before.Credit, u.Flight-before.Flight, u.Ahead-before.Ahead
	for i := range u.Waited {
		u.Waited[i] -= before.Waited[i]
	}
	return u
}

// Mean returns the mean occupancy of a memory of a number of chunks, without a bottleneck.
func (u Usage) Mean(chunks int) migration.Occupancy {
	if u.Took <= 0 {
		return migration.Occupancy{}
	}
	part := func(full float64) float64 { return max(0, full) / (float64(chunks) * u.Took.Seconds()) }
	return migration.Occupancy{Queue: part(u.Queue), Credit: part(u.Credit), Flight: part(u.Flight), Ahead: part(u.Ahead)}
}

// Gauge sums up the levels of a memory for chunks. Its owner's lock guards it.
type Gauge struct {
	start time.Time
	now   Levels // the levels since sum.Took
	sum   Usage
}

// NewGauge returns a Gauge of an empty memory.
func NewGauge() Gauge { return Gauge{start: time.Now()} }

// Set sets the levels from now on. It reads the clock only if they changed.
func (g *Gauge) Set(l Levels) {
	if l != g.now {
		g.accumulate()
		g.now = l
	}
}

// Usage returns the usage of all the time so far.
func (g *Gauge) Usage() Usage {
	g.accumulate()
	return g.sum
}

func (g *Gauge) accumulate() {
	at := time.Since(g.start)
	took, s := at-g.sum.Took, &g.sum
	s.Queue += float64(g.now.Queue) * took.Seconds()
	s.Credit += float64(g.now.Credit) * took.Seconds()
	s.Flight += float64(g.now.Flight) * took.Seconds()
	s.Ahead += float64(g.now.Ahead) * took.Seconds()
	s.Waited[g.now.Waiting] += took
	s.Took = at
}

// Progress is the progress of a side: times and counts that only grow. Its zero value is the
// start.
type Progress[P any] interface {
	Elapsed() time.Duration
	Since(before P) P
	Occupancy(chunks int) migration.Occupancy
}

// recentTime is the least time that Recent covers, once it has passed.
const recentTime = time.Second

// Recent measures the occupancy of the last second or two. It has the progress at the start of that
// time, and at the start of the next one.
type Recent[P Progress[P]] struct{ from, next P }

// Occupancy returns the recent occupancy of a memory of a number of chunks.
func (r *Recent[P]) Occupancy(now P, chunks int) migration.Occupancy {
	if now.Elapsed()-r.next.Elapsed() >= recentTime {
		r.from, r.next = r.next, now
	}
	return now.Since(r.from).Occupancy(chunks)
}
