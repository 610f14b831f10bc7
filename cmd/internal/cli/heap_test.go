package cli

import (
	"math"
	"runtime/debug"
	"testing"
)

// TestCollector: what the environment says of the collector is left alone, each for
// itself.
func TestCollector(t *testing.T) {
	const ours, limit = heapPercent, heapLimit + 4<<20
	for _, c := range []struct {
		gogc, gomemlimit string
		percent          int
		limit            int64
	}{
		{"", "", ours, limit},
		{"100", "", 100, limit},
		{"off", "", 100, limit},
		{"", "1GiB", ours, math.MaxInt64},
		{"100", "off", 100, math.MaxInt64},
	} {
		t.Setenv("GOGC", c.gogc)
		t.Setenv("GOMEMLIMIT", c.gomemlimit)
		percent := debug.SetGCPercent(100) // stands for what the runtime has made of the environment
		most := debug.SetMemoryLimit(math.MaxInt64)
		limitHeap(32<<20, memoryLimit{bytes: math.MaxUint64})
		keepCollectorAway(true)
		gotLimit, gotPercent := debug.SetMemoryLimit(most), debug.SetGCPercent(percent)
		if gotPercent != c.percent || gotLimit != c.limit {
			t.Errorf("GOGC=%s GOMEMLIMIT=%s: %d%%, %d bytes, want %d%%, %d", c.gogc, c.gomemlimit, gotPercent, gotLimit, c.percent, c.limit)
		}
	}
}

// TestHeapFitsTheLimit: a heap gets what a limit leaves, the least that a program needs at least.
func TestHeapFitsTheLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for _, c := range []struct {
		buffers, all uint64
		want         int64
	}{
		{32 << 20, 1 << 40, heapLimit + 4<<20},
		{32 << 20, 80 << 20, 40 << 20},
		{32 << 20, 56 << 20, leastHeap},
		{32 << 20, 1 << 20, leastHeap},
	} {
		limitHeap(c.buffers, memoryLimit{bytes: c.all})
		if got := debug.SetMemoryLimit(-1); got != c.want {
			t.Errorf("%d bytes of buffers in %d: the heap's limit is %d, want %d", c.buffers, c.all, got, c.want)
		}
	}
}
