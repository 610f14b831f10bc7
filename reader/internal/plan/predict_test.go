package plan

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

const (
	mib = 1 << 20
	ms  = time.Millisecond
)

func known(d time.Duration) migration.Span   { return migration.Span{Took: d, Known: true} }
func atLeast(d time.Duration) migration.Span { return migration.Span{Took: d} }

// The figures below are computed by hand. A chunk of 1 MiB takes 10 ms on the wire, 5 ms to
// save and 20 ms to load.
var (
	wire    = Path{Chunk: mib, Rate: 100 * mib, RTT: known(4 * ms)}
	nothing = Amount{Known: true}
	typical = DeviceFigures{Precopy: nothing, Remaining: Amount{11 * mib, true}, Save: 200 * mib, Load: 50 * mib, Stop: known(3 * ms), Start: known(7 * ms)}
)

func TestPredictDevice(t *testing.T) {
	change := func(f func(*DeviceFigures)) DeviceFigures {
		d := typical
		f(&d)
		return d
	}
	for _, c := range []struct {
		name            string
		of              DeviceFigures
		over            Path
		total, downtime migration.Span
	}{
		// 3 stop, 52 fill (8 MiB saved 40 + 10 + 2), 200 load, 20 last, 6 commit, 7 start.
		{"bound by the load", typical, wire, known(288 * ms), known(288 * ms)},
		// 3 + 52 + 100 + 1 + 6 + 7.
		{"bound by the wire", change(func(f *DeviceFigures) { f.Load = 1000 * mib }), wire, known(169 * ms), known(169 * ms)},
		// 3 + 812 (8 MiB saved 800 + 10 + 2) + 300 + 1 + 6 + 7.
		{"bound by the save", change(func(f *DeviceFigures) { f.Save, f.Load = 10*mib, 1000*mib }), wire, known(1129 * ms), known(1129 * ms)},
		// Half a Chunk: 3 + 9.5 + 0 + 10 + 6 + 7.
		{"less than a chunk", change(func(f *DeviceFigures) { f.Remaining.Bytes = mib / 2 }), wire, known(35500 * time.Microsecond), known(35500 * time.Microsecond)},
		// 3 + 2 + 0 + 0 + 6 + 7.
		{"nothing left", change(func(f *DeviceFigures) { f.Remaining = nothing }), wire, known(18 * ms), known(18 * ms)},
		// 40 MiB before the pause, at the rate of the load.
		{"pre-copied", change(func(f *DeviceFigures) { f.Precopy = Amount{40 * mib, true} }), wire, known(1088 * ms), known(288 * ms)},
		// 1 MiB was read and is not applied: 3 + 52 + 220 + 20 + 6 + 7.
		{"hidden", change(func(f *DeviceFigures) { f.Hidden = mib }), wire, known(308 * ms), known(308 * ms)},
		// Without the load: 3 + 52 + 100 + 6 + 7.
		{"load unknown", change(func(f *DeviceFigures) { f.Load = 0 }), wire, atLeast(168 * ms), atLeast(168 * ms)},
		{"stop unknown", change(func(f *DeviceFigures) { f.Stop = migration.Span{} }), wire, atLeast(285 * ms), atLeast(285 * ms)},
		{"the size is a lower bound", change(func(f *DeviceFigures) { f.Remaining.Known = false }), wire, atLeast(288 * ms), atLeast(288 * ms)},
		// 3 + 40 + 200 + 20 + 7: neither rate nor round trip.
		{"path unknown", typical, Path{Chunk: mib}, atLeast(270 * ms), atLeast(270 * ms)},
		{"nothing known", DeviceFigures{}, Path{}, atLeast(0), atLeast(0)},
	} {
		all := Predict([]DeviceFigures{c.of}, c.over)
		if alone := c.over.PredictAlone(c.of); all != alone {
			t.Errorf("%s: whole set  %+v\nits device %+v", c.name, all, alone)
		}
		if all.Total != c.total || all.Downtime != c.downtime {
			t.Errorf("%s: total %v, downtime %v, want %v and %v", c.name, all.Total, all.Downtime, c.total, c.downtime)
		}
	}
}

// TestPredictSet checks that two devices share the wire, and nothing else.
func TestPredictSet(t *testing.T) {
	other := typical
	other.Remaining, other.Load, other.Start = Amount{5 * mib, true}, 100*mib, known(9*ms)
	all := Predict([]DeviceFigures{typical, other}, wire)
	want := migration.Prediction{
		Precopy: known(0), Stop: known(3 * ms), Fill: known(52 * ms), Save: known(15 * ms), Wire: known(135 * ms),
		Load: known(70 * ms), Commit: known(6 * ms), Start: known(9 * ms),
		Downtime: known(290 * ms), Total: known(290 * ms),
	}
	if all != want {
		t.Errorf("the set is %+v\nwant       %+v", all, want)
	}
	if alone := wire.PredictAlone(other); alone.Wire != known(40*ms) || alone.Downtime != known(105*ms) {
		t.Errorf("the second alone: %+v", alone)
	}
	other.Stop = migration.Span{}
	if all := Predict([]DeviceFigures{typical, other}, wire); all.Downtime != atLeast(290*ms) {
		t.Errorf("one stage of one device unknown: %v", all.Downtime)
	}
	ahead := Amount{20 * mib, true}
	if all := Predict([]DeviceFigures{{Precopy: ahead, Save: 1e12, Load: 1e12}, {Precopy: ahead, Save: 1e12, Load: 1e12}}, wire); all.Precopy != known(400*ms) {
		t.Errorf("pre-copy of both: %v", all.Precopy)
	}
}

// TestWindow checks that the window keeps the path busy, is at most a quarter of the bytes that fit
// the downtime, and is two chunks at least.
func TestWindow(t *testing.T) {
	for _, c := range []struct {
		rate     float64
		rtt      time.Duration
		downtime time.Duration
		want     uint64
	}{
		{0, 4 * ms, 300 * ms, 0},                    // nothing is known yet: memory is the limit
		{1000 * mib, 15 * ms, 300 * ms, 50 * mib},   // 1000 MiB/s x (15 + 10 ms) x 2
		{1000 * mib, 190 * ms, 300 * ms, 75 * mib},  // 1000 MiB/s x 300 ms / 4
		{10 * mib, 15 * ms, 300 * ms, 2 * mib},      // two chunks
		{1000 * mib, 15 * ms, 60 * ms, 15 * mib},    // 1000 MiB/s x 60 ms / 4
		{1000 * mib, 40 * ms, Unlimited, 100 * mib}, // 1000 MiB/s x (40 + 10 ms) x 2
	} {
		if got := (Path{Chunk: mib, Rate: c.rate, RTT: known(c.rtt)}).window(c.downtime); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestPredictAbsurd checks that no absurd estimate of a driver makes a prediction negative.
func TestPredictAbsurd(t *testing.T) {
	absurd := DeviceFigures{Precopy: Amount{math.MaxUint64, true}, Remaining: Amount{math.MaxUint64, true}, Save: 1e-300, Load: math.Inf(1)}
	devices := make([]DeviceFigures, 64)
	for i := range devices {
		devices[i] = absurd
	}
	if all := Predict(devices, Path{Chunk: 1, Rate: 1e-300, RTT: known(time.Hour)}); all.Total.Took < all.Downtime.Took || all.Downtime.Took < all.Save.Took || all.Save.Took <= 0 {
		t.Errorf("%+v", all)
	}
}

// TestMeasuredAllocations checks that an ACK is handled without an allocation while no switchover
// may begin.
func TestMeasuredAllocations(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name    string
		limits  Limits
		applied uint64
		rate    float64
	}{
		{"initial bytes are missing", Limits{Downtime: s, MaxPrecopy: time.Hour, MaxRounds: 9}, 0, mib},
		{"it would take too long", Limits{Downtime: s, MaxPrecopy: time.Hour, MaxRounds: 9}, 100 * mib, mib},
		{"over a limit", Limits{Downtime: s, MaxPrecopy: s, MaxRounds: 9, OnLimit: Continue}, 100 * mib, mib},
		{"the path is unknown", Limits{Downtime: s, MaxPrecopy: time.Hour, MaxRounds: 9}, 100 * mib, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 8 // slices of 8 do not fit the stack
			p := New(c.limits, slices.Repeat([]vfio.Features{{PreCopy: true}}, n), nil)
			p.warmth = warm
			p.Step(0, LanesOpened{})
			p.Step(0, StatesReached{})
			for i := range n {
				p.Step(0, SizePolled{i, 200 * mib})
				p.Step(s, PrecopyPolled{Device: i, Offset: 100 * mib, Idle: true, Pending: vfio.Pending{Dirty: 100 * mib}})
			}
			rates := slices.Repeat([]float64{1e9}, n)
			ev := &Measured{Drained: slices.Repeat([]uint64{100 * mib}, n), Applied: slices.Repeat([]uint64{c.applied}, n), Save: rates, Load: rates}
			ev.Path = Path{Chunk: mib, Rate: c.rate, Full: true, RTT: known(time.Millisecond)}
			p.Step(2*s, ev)
			allocs := testing.AllocsPerRun(100, func() {
				if actions := p.Step(3*s, ev); actions != nil {
					t.Fatalf("%T", actions[0])
				}
			})
			if allocs != 0 || p.phase != Precopying {
				t.Errorf("%v allocations, %v", allocs, p.phase)
			}
		})
	}
}

// BenchmarkPlan is a step of the plan before the switchover: it computes the downtime again from
// all measurements, for devices that are far from ready. The engine's loop does so at each tick and
// ACK.
func BenchmarkPlan(b *testing.B) {
	for _, devices := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			p := New(Limits{Downtime: 100 * ms, MaxPrecopy: time.Hour, MaxRounds: 1000}, manyPreCopy(devices), nil)
			p.Step(0, LanesOpened{})
			p.Step(0, StatesReached{})
			ev := &Measured{Path: wire, Stop: known(3 * ms), Start: known(7 * ms)}
			ev.Path.Full = true
			for i := range devices {
				p.Step(ms, PrecopyPolled{Device: i, Pending: vfio.Pending{Initial: 1 << 30, Dirty: 1 << 30}})
				ev.Drained, ev.Applied = append(ev.Drained, 2*mib), append(ev.Applied, mib)
				ev.Save, ev.Load = append(ev.Save, 200*mib), append(ev.Load, 50*mib)
			}
			for b.Loop() {
				if actions := p.Step(2*ms, ev); actions != nil {
					b.Fatalf("the plan does %v", actions)
				}
			}
		})
	}
}

func manyPreCopy(n int) []vfio.Features {
	list := make([]vfio.Features, n)
	for i := range list {
		list[i] = vfio.Features{PreCopy: true, P2P: true, DataSize: true}
	}
	return list
}
