package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestBottleneck: both sides name the slow stage, during the switchover and at the end,
// and the memory in front of that stage is full.
func TestBottleneck(t *testing.T) {
	fast := "xe?size=32MiB&content=random"
	for _, c := range []struct {
		name                  string
		source, sink          string
		bandwidth             uint64
		src, dst              string
		queue, credit, flight [2]float64 // at the source: at least, and at the most
		came                  [2]float64 // received by the destination
	}{
		{"save", fast + "&save=16MiB/s&buffer=256KiB", fast, 0, migration.BoundSave, migration.BoundArrival, [2]float64{0, 0.1}, [2]float64{0, 0.1}, [2]float64{0, 0.3}, [2]float64{0, 0.1}},
		{"network", fast, fast, 16 * mib, migration.BoundNetwork, migration.BoundArrival, [2]float64{0.5, 1}, [2]float64{0, 0.1}, [2]float64{0, 0.4}, [2]float64{0, 0.1}},
		{"load", fast, fast + "&load=16MiB/s", 0, migration.BoundLoad, migration.BoundLoad, [2]float64{0, 0.3}, [2]float64{0, 1}, [2]float64{0.3, 1}, [2]float64{0.5, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, pipe)
				p.add(t, "d0", c.source, c.sink)
				p.send.Memory, p.receive.Memory, p.send.ChunkSize = 4*mib, 4*mib, 1<<16
				p.send.MaxBandwidth, p.send.OnLimit, p.send.ResumeAfter = c.bandwidth, reader.Force, time.Minute
				var told, came named
				p.send.Observe, p.receive.Observe = told.observe, came.observe
				s, r := p.succeed(t)
				t.Logf("source:      %+v, in all %+v", s.report.StopOccupancy, s.report.Occupancy)
				t.Logf("destination: %+v, in all %+v", r.report.StopOccupancy, r.report.Occupancy)
				if s.report.StopOccupancy.Bottleneck != c.src || r.report.StopOccupancy.Bottleneck != c.dst {
					t.Errorf("bound by %q and %q, want %q and %q", s.report.StopOccupancy.Bottleneck, r.report.StopOccupancy.Bottleneck, c.src, c.dst)
				}
				told.only(t, c.src)
				came.only(t, c.dst)
				f := s.report.StopOccupancy
				within(t, "queue", f.Queue, c.queue)
				within(t, "credit", f.Credit, c.credit)
				within(t, "flight", f.Flight, c.flight)
				within(t, "queue of the destination", r.report.StopOccupancy.Queue, c.came)
			})
		})
	}
}

// lingering needs 5 ms for each choice.
type lingering struct{ codec.Policy }

func (s lingering) Choose(device int, src []byte) codec.Choice {
	time.Sleep(5 * time.Millisecond)
	return s.Policy.Choose(device, src)
}

// TestBottleneckOfShortStop: a switchover has its bottleneck even if it is shorter than the
// time between two measurements. So has a state that never fills the memory.
func TestBottleneckOfShortStop(t *testing.T) {
	for want, c := range map[string]struct {
		source, sink string
		bandwidth    uint64
		codec        codec.Policy
	}{
		migration.BoundSave:    {source: "&save=16MiB/s&buffer=64KiB"},
		migration.BoundCodec:   {codec: lingering{codec.Fixed(codec.Raw)}},
		migration.BoundNetwork: {bandwidth: 16 * mib},
		migration.BoundLoad:    {sink: "&load=16MiB/s"},
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, pipe)
				state := "xe?size=1MiB&content=random"
				p.add(t, "d0", state+c.source, state+c.sink)
				p.send.ChunkSize, p.send.MaxBandwidth, p.send.Codec, p.send.Lanes = 1<<16, c.bandwidth, c.codec, 1
				s, _ := p.succeed(t)
				if f := s.report.StopOccupancy; f.Bottleneck != want || s.report.Downtime > 100*time.Millisecond {
					t.Errorf("a stop of %v is bound by %q, want %q: %+v", s.report.Downtime, f.Bottleneck, want, f)
				}
			})
		})
	}
}

func within(t *testing.T, what string, got float64, bounds [2]float64) {
	t.Helper()
	if got < bounds[0] || got > bounds[1] {
		t.Errorf("%s: %.3f, want %.2f to %.2f", what, got, bounds[0], bounds[1])
	}
}

// named counts the bottlenecks that progress names in STOP_COPY.
type named map[string]int

func (n *named) observe(ev migration.Event) {
	if ev.Kind == migration.Progress && len(ev.Devices) > 0 && ev.Devices[0].Phase == migration.StopCopy {
		if *n == nil {
			*n = named{}
		}
		(*n)[ev.Occupancy.Bottleneck]++
	}
}

// only requires one name, except for the moments before the first chunk.
func (n named) only(t *testing.T, want string) {
	t.Helper()
	if n[want] < 10 || len(n) > 2 || len(n) == 2 && n[""] == 0 {
		t.Errorf("progress has named %v, want %q", n, want)
	}
}
