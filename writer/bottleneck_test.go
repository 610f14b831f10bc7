package writer

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/occupancy"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestOccupancyOverTime checks that each chunk counts for its time in each stage.
func TestOccupancyOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMerge(alone(4), 0, 1<<20)
		pass := func(ms int) { time.Sleep(time.Duration(ms) * time.Millisecond) }
		come := func(seq uint64) {
			h := wire.ChunkHead{Seq: seq, Offset: seq * 10, RawLen: 10}
			if _, err := m.claim(h, new(receiver)); err != nil {
				t.Fatal(err)
			}
			m.deliver(&wire.Chunk{ChunkHead: h})
		}
		pass(1000)
		come(1)
		pass(100) // one chunk ahead of a missing one
		come(0)
		pass(200) // two chunks in order
		if c, _ := m.tryTake(); c == nil {
			t.Fatal("nothing is in order")
		}
		pass(300) // one of them is being written
		m.markApplied(10, 0)
		come(3)
		pass(400) // one in order, and one ahead
		got := m.usage()
		want := usage{occupancy.Usage{Took: 2 * time.Second, Queue: 0.4 + 0.6 + 0.4, Ahead: 0.1 + 0.4}, 3}
		want.Waited[occupancy.ForNothing], want.Waited[occupancy.ForLoad] = 1100*time.Millisecond, 900*time.Millisecond
		if math.Abs(got.Queue-want.Queue)+math.Abs(got.Ahead-want.Ahead) < 1e-9 {
			got.Queue, got.Ahead = want.Queue, want.Ahead
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

// TestLevels checks, for every order, that each chunk which came and was not applied counts as in
// order, or as ahead of a missing one.
func TestLevels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "chunks")
		m, there := newMerge(alone(n), 0, 1<<20), map[uint64]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			seq := m.next + rapid.Uint64Max(uint64(n-1)).Draw(t, "chunk")
			switch {
			case there[m.next] && rapid.Bool().Draw(t, "apply"):
				m.tryTake()
				delete(there, m.next)
				m.markApplied(10, 0)
			case !there[seq]:
				h := wire.ChunkHead{Seq: seq, Offset: seq * 10, RawLen: 10}
				if _, err := m.claim(h, new(receiver)); err != nil {
					t.Fatal(err)
				}
				m.deliver(&wire.Chunk{ChunkHead: h})
				there[seq] = true
			}
			var want occupancy.Levels
			for there[m.next+uint64(want.Queue)] {
				want.Queue++
			}
			want.Ahead = len(there) - want.Queue
			if want.Queue > 0 {
				want.Waiting = occupancy.ForLoad
			}
			if got := m.levels(); got != want || want.Queue+want.Ahead > n {
				t.Fatalf("the levels are %+v of %d, want %+v", got, n, want)
			}
		}
	})
}

// busyUsage is the usage of a device that was loading for so much of 100 ns.
func busyUsage(busy time.Duration, came uint64) (u usage) {
	u.Took, u.Waited[occupancy.ForLoad], u.delivered = 100, busy, came
	return u
}

func TestBottleneck(t *testing.T) {
	for _, c := range []struct {
		name string
		p    progress
		want string
	}{
		{"no device", nil, ""},
		{"nothing comes", progress{busyUsage(0, 0), busyUsage(0, 0)}, ""},
		{"one device is always busy", progress{busyUsage(10, 5), busyUsage(51, 0)}, migration.BoundLoad},
		{"both are busy, none for long", progress{busyUsage(50, 0), busyUsage(50, 0)}, migration.BoundArrival},
		{"each chunk is loaded in no time", progress{busyUsage(0, 5)}, migration.BoundArrival},
	} {
		if got := bottleneck(c.p); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
