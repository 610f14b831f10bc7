package reader

import (
	"math"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

const (
	mib = 1 << 20
	ms  = time.Millisecond
)

func known(d time.Duration) report.Span   { return report.Span{Took: d, Known: true} }
func atLeast(d time.Duration) report.Span { return report.Span{Took: d} }

// The figures below are computed by hand: a chunk of 1 MiB takes 10 ms on the
// wire, 5 ms to save and 20 ms to load.
var (
	wire    = path{chunk: mib, rate: 100 * mib, rtt: known(4 * ms)}
	nothing = amount{known: true}
	device  = figures{precopy: nothing, left: amount{11 * mib, true}, save: 200 * mib, load: 50 * mib, stop: known(3 * ms), start: known(7 * ms)}
)

func TestPredictDevice(t *testing.T) {
	change := func(f func(*figures)) figures {
		d := device
		f(&d)
		return d
	}
	for _, c := range []struct {
		name            string
		of              figures
		over            path
		total, downtime report.Span
	}{
		// 3 stop, 17 fill (5 + 10 + 2), 200 load, 20 last, 4 commit, 7 start.
		{"bound by the load", device, wire, known(251 * ms), known(251 * ms)},
		// 3 + 17 + 100 + 1 + 4 + 7.
		{"bound by the wire", change(func(f *figures) { f.load = 1000 * mib }), wire, known(132 * ms), known(132 * ms)},
		// 3 + 112 + 1000 + 1 + 4 + 7.
		{"bound by the save", change(func(f *figures) { f.save, f.load = 10*mib, 1000*mib }), wire, known(1127 * ms), known(1127 * ms)},
		// Half a chunk: 3 + 9.5 + 0 + 10 + 4 + 7.
		{"less than a chunk", change(func(f *figures) { f.left.bytes = mib / 2 }), wire, known(33500 * time.Microsecond), known(33500 * time.Microsecond)},
		// 3 + 2 + 0 + 0 + 4 + 7.
		{"nothing left", change(func(f *figures) { f.left = nothing }), wire, known(16 * ms), known(16 * ms)},
		// 40 MiB ahead of the pause, at the pace of the load.
		{"pre-copied", change(func(f *figures) { f.precopy = amount{40 * mib, true} }), wire, known(1051 * ms), known(251 * ms)},
		// Without what the load takes: 3 + 17 + 100 + 4 + 7.
		{"load unknown", change(func(f *figures) { f.load = 0 }), wire, atLeast(131 * ms), atLeast(131 * ms)},
		{"stop unknown", change(func(f *figures) { f.stop = report.Span{} }), wire, atLeast(248 * ms), atLeast(248 * ms)},
		{"more than is known", change(func(f *figures) { f.left.known = false }), wire, atLeast(251 * ms), atLeast(251 * ms)},
		// 3 + 5 + 200 + 20 + 7: neither rate nor round trip.
		{"path unknown", device, path{chunk: mib}, atLeast(235 * ms), atLeast(235 * ms)},
		{"nothing known", figures{}, path{}, atLeast(0), atLeast(0)},
	} {
		all, each := predict([]figures{c.of}, c.over)
		if all != each[0] {
			t.Errorf("%s: in all  %+v\nits device %+v", c.name, all, each[0])
		}
		if all.Total != c.total || all.Downtime != c.downtime {
			t.Errorf("%s: total %v, downtime %v, want %v and %v", c.name, all.Total, all.Downtime, c.total, c.downtime)
		}
	}
}

// Two devices share the wire, and nothing else.
func TestPredictSet(t *testing.T) {
	other := device
	other.left, other.load, other.start = amount{5 * mib, true}, 100*mib, known(9*ms)
	all, each := predict([]figures{device, other}, wire)
	want := report.Prediction{
		Precopy: known(0), Stop: known(3 * ms), Fill: known(17 * ms), Save: known(50 * ms), Wire: known(150 * ms),
		Load: known(200 * ms), Last: known(20 * ms), Commit: known(4 * ms), Start: known(9 * ms),
		Downtime: known(253 * ms), Total: known(253 * ms),
	}
	if all != want {
		t.Errorf("in all %+v\nwant   %+v", all, want)
	}
	if each[1].Wire != known(40*ms) || each[1].Downtime != known(83*ms) {
		t.Errorf("the second alone: %+v", each[1])
	}
	other.stop = report.Span{}
	if all, _ := predict([]figures{device, other}, wire); all.Downtime != atLeast(253*ms) {
		t.Errorf("one stage of one device unknown: %v", all.Downtime)
	}
	ahead := amount{20 * mib, true}
	if all, _ := predict([]figures{{precopy: ahead, save: 1e12, load: 1e12}, {precopy: ahead, save: 1e12, load: 1e12}}, wire); all.Precopy != known(400*ms) {
		t.Errorf("pre-copy of both: %v", all.Precopy)
	}
}

// What a driver claims may be absurd; a prediction is never negative.
func TestPredictAbsurd(t *testing.T) {
	absurd := figures{precopy: amount{math.MaxUint64, true}, left: amount{math.MaxUint64, true}, save: 1e-300, load: math.Inf(1)}
	devices := make([]figures, 64)
	for i := range devices {
		devices[i] = absurd
	}
	if all, _ := predict(devices, path{chunk: 1, rate: 1e-300, rtt: known(time.Hour)}); all.Total.Took < all.Downtime.Took || all.Downtime.Took < all.Save.Took || all.Save.Took <= 0 {
		t.Errorf("%+v", all)
	}
}
