package reader

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

// checkLevels compares the levels with the stages of all chunks, while no device is read.
func (h *lossyQueue) checkLevels(t *rapid.T) {
	want := levels{sending: len(h.held)}
	for i := range h.lines {
		l := &h.lines[i]
		_, credit := h.lowest(i)
		for n := l.oldest; n < l.end; n++ {
			switch k := l.at(n); {
			case k.where == gone:
				continue
			case k.where == queued && credit:
				want.ready++
			case k.where == queued:
				want.uncredited++
			}
			want.retained++
		}
	}
	if got := h.levels; got != want || got.retained > h.chunks {
		t.Fatalf("the levels are %+v of %d, want %+v", got, h.chunks, want)
	}
}

// TestOccupancyOverTime checks that each chunk counts for its time in each stage, and each moment
// for the stage that the others waited for.
func TestOccupancyOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestQueue(t, 4, alone(0))
		pass := func(ms int) { time.Sleep(time.Duration(ms) * time.Millisecond) }
		pass(1000)
		early, err := f.get(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		pass(100) // the device is read
		f.release(0, early)
		f.putOne(t.Context(), 0)
		f.putOne(t.Context(), 0)
		pass(200) // two chunks without credit
		f.grant(0, wire.Window{Seq: 1, Offset: 10})
		pass(300) // two chunks in a line whose first has credit
		c := f.takeOne()
		pass(400) // one chunk on a lane, one without credit
		f.grant(0, all)
		second := f.takeOne()
		pass(500) // both on lanes
		f.finishSend(second)
		f.finishSend(c)
		pass(600) // both are sent
		if err := f.ack(0, 2); err != nil {
			t.Fatal(err)
		}
		pass(700)
		got := f.usage()
		want := occupancy.Usage{Took: 3800 * time.Millisecond, Queue: 0.6, Credit: 0.8, Flight: 0.4 + 1 + 1.2}
		want.Waited = [...]time.Duration{
			occupancy.ForNothing: 1700 * time.Millisecond, occupancy.ForDevice: 100 * time.Millisecond, occupancy.ForLane: 800 * time.Millisecond, occupancy.ForPeer: 1200 * time.Millisecond, occupancy.ForLoad: 0,
		}
		if off := math.Abs(got.Queue-want.Queue) + math.Abs(got.Credit-want.Credit) + math.Abs(got.Flight-want.Flight); off < 1e-9 {
			got.Queue, got.Credit, got.Flight = want.Queue, want.Credit, want.Flight
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestBottleneck(t *testing.T) {
	for _, c := range []struct {
		name             string
		save, lane, peer time.Duration // waited
		encode, write    time.Duration
		loads            []time.Duration
		want             string
	}{
		{name: "nothing moved"},
		{name: "a device without new data", save: 20},
		{name: "nothing moved, the lanes were padded", write: 5},
		{"the device", 60, 20, 19, 30, 20, []time.Duration{40}, migration.BoundSave},
		{"codec", 10, 80, 10, 81, 80, []time.Duration{40}, migration.BoundCodec},
		{"network", 10, 80, 10, 80, 81, []time.Duration{40}, migration.BoundNetwork},
		{"lanes blocked in their first write", 0, 100, 0, 0, 0, nil, migration.BoundNetwork},
		{"round trips", 0, 10, 90, 0, 10, []time.Duration{10, 20}, migration.BoundNetwork},
		{"a destination that always loads", 0, 10, 90, 0, 10, []time.Duration{10, 99}, migration.BoundLoad},
		{"a destination that loaded before", 0, 10, 60, 0, 10, []time.Duration{300}, migration.BoundLoad},
		{"a destination that loads while the lanes are busy", 0, 90, 10, 0, 90, []time.Duration{95}, migration.BoundNetwork},
		{"no stage alone", 40, 40, 20, 20, 20, []time.Duration{15}, migration.Balanced},
		{"half is not more than half", 50, 50, 0, 20, 10, nil, migration.Balanced},
		{"codec against the network", 0, 50, 50, 30, 20, nil, migration.Balanced},
	} {
		p := progress{Usage: occupancy.Usage{Took: 1000 + c.save + c.lane + c.peer}, encoding: c.encode, writing: c.write, loading: c.loads}
		p.Waited = [...]time.Duration{occupancy.ForNothing: 1000, occupancy.ForDevice: c.save, occupancy.ForLane: c.lane, occupancy.ForPeer: c.peer, occupancy.ForLoad: 0}
		if got := bottleneck(p); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestRecent checks that a reported occupancy is never older than two seconds.
func TestRecent(t *testing.T) {
	var r occupancy.Recent[progress]
	for i := range 50 {
		now := progress{Usage: occupancy.Usage{Took: time.Duration(i) * 100 * time.Millisecond}}
		now.Queue = 2 * max(0, now.Took.Seconds()-1.5) // two chunks of four, from 1.5 s on
		got := r.Occupancy(now, 4).Queue
		if i > 35 && math.Abs(got-0.5) > 1e-9 || i <= 15 && got != 0 {
			t.Errorf("after %v the queue is at %v", now.Took, got)
		}
	}
}

// TestDrainReadsOn checks that a device is read while its only lane takes nothing, as long as there
// is memory, and that its drain then waits for memory.
func TestDrainReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newDrainBench(t, &script{reads: []answer{{4096, nil}}})
		b.queue.grant(3, all)
		go b.drain.run(t.Context())
		blocked := make(chan *wire.Chunk)
		go func() { // a lane that has begun to write
			c, _ := b.queue.take(0)
			blocked <- c
		}()
		synctest.Wait()
		if n := b.read.Load(); n != 8*4096 {
			t.Errorf("%d bytes were read, the memory has room for %d", n, 8*4096)
		}
		if got, want := b.queue.levels, (levels{ready: 7, sending: 1, retained: 8}); got != want {
			t.Errorf("the levels are %+v, want %+v", got, want)
		}
		c := <-blocked
		b.queue.finishSend(c)
		if err := b.queue.ack(3, 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := b.read.Load(); n != 9*4096 {
			t.Errorf("%d bytes were read once a chunk was free, want %d", n, 9*4096)
		}
	})
}

// TestLastLoad checks that load times in an ACK after READY still count for the switchover: nothing
// is loaded after READY.
func TestLastLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arena, err := wire.NewArena(4<<16, 1<<16, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer arena.Close()
		p := &pipeline{devices: newDevices(make([]Source, 1)), queue: newQueue(arena, 2, alone(0))}
		p.atReady = progress{Usage: occupancy.Usage{Took: time.Second}, loading: make([]time.Duration, 1)}
		p.atReady.Waited[occupancy.ForPeer] = time.Second
		if _, stop := p.occupancies(true); stop.Bottleneck != migration.BoundNetwork {
			t.Errorf("before that ACK: bound by %q", stop.Bottleneck)
		}
		p.devices[0].loadRate.took = 900 * time.Millisecond
		if all, stop := p.occupancies(true); all.Bottleneck != migration.BoundLoad || stop.Bottleneck != migration.BoundLoad {
			t.Errorf("bound by %q, in all by %q", stop.Bottleneck, all.Bottleneck)
		}
	})
}
