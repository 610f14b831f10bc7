package writer

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// TestFillOverTime: each chunk counts for the time that it was somewhere.
func TestFillOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMerge(alone(4), 0, 1<<20)
		pass := func(ms int) { time.Sleep(time.Duration(ms) * time.Millisecond) }
		come := func(seq uint64) {
			h := transport.ChunkHead{Seq: seq, Offset: seq * 10, RawLen: 10}
			if _, err := m.claim(h, new(receiver)); err != nil {
				t.Fatal(err)
			}
			m.deliver(&transport.Chunk{ChunkHead: h})
		}
		pass(1000)
		come(1)
		pass(100) // one too early
		come(0)
		pass(200) // two in order
		if c, _ := m.poll(); c == nil {
			t.Fatal("nothing is in order")
		}
		pass(300) // of which one is being written
		m.applied(10, 0)
		come(3)
		pass(400) // one, and one too early
		got := m.usage()
		want := usage{at: 2 * time.Second, queue: 0.4 + 0.6 + 0.4, ahead: 0.1 + 0.4, busy: 900 * time.Millisecond, came: 3}
		if math.Abs(got.queue-want.queue)+math.Abs(got.ahead-want.ahead) < 1e-9 {
			got.queue, got.ahead = want.queue, want.ahead
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

// TestLevels: whatever the order, each chunk that came and was not applied is in order
// or ahead of one that has not come.
func TestLevels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "chunks")
		m, there := newMerge(alone(n), 0, 1<<20), map[uint64]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			seq := m.next + rapid.Uint64Max(uint64(n-1)).Draw(t, "chunk")
			switch {
			case there[m.next] && rapid.Bool().Draw(t, "apply"):
				m.poll()
				delete(there, m.next)
				m.applied(10, 0)
			case !there[seq]:
				h := transport.ChunkHead{Seq: seq, Offset: seq * 10, RawLen: 10}
				if _, err := m.claim(h, new(receiver)); err != nil {
					t.Fatal(err)
				}
				m.deliver(&transport.Chunk{ChunkHead: h})
				there[seq] = true
			}
			var want levels
			for there[m.next+want.queue] {
				want.queue++
			}
			want.ahead = uint64(len(there)) - want.queue
			if m.fill.was != want || want.queue+want.ahead > uint64(n) {
				t.Fatalf("the levels are %+v of %d, want %+v", m.fill.was, n, want)
			}
		}
	})
}

func TestBottleneck(t *testing.T) {
	for _, c := range []struct {
		name string
		p    progress
		want string
	}{
		{"nothing is there", nil, ""},
		{"nothing comes", progress{{at: 100}, {at: 100}}, ""},
		{"one device is always busy", progress{{at: 100, busy: 10, came: 5}, {at: 100, busy: 51}}, report.BoundLoad},
		{"both are busy, none for long", progress{{at: 100, busy: 50}, {at: 100, busy: 50}}, report.BoundArrival},
		{"each chunk is loaded in no time", progress{{at: 100, came: 5}}, report.BoundArrival},
	} {
		if got := bottleneck(c.p); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
