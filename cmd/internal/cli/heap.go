package cli

import (
	"os"
	"runtime/debug"
)

// How the garbage collector is set, where the environment does not say.
//
// Chunks are outside the heap and moving one allocates nothing, so what grows the
// heap is the network's own: some 30 MiB for each GiB over QUIC, beside 3 MiB that
// live. With ten times what lives, of which the runtime makes 40 MiB at the least, a
// cycle comes about once a GiB, and so practically never in the moments in which the
// guest stands still, where it would take CPUs from the lanes. The limit is for a
// heap that is larger than that, with many devices or many small chunks: it has
// cycles come earlier rather than memory be ten times as much.
//
// A destination that waits for its source has the runtime's usual percentage: a stranger's
// TLS handshake leaves some 40 KiB of garbage.
const (
	heapPercent = 1000
	heapUsual   = 100
	heapLimit   = 96 << 20
)

// limitHeap sets the limit for buffers of so many bytes, whose bookkeeping is in the heap. Where
// this process may have little memory, the heap gets what the buffers leave of it. This is for
// a program to do and not for a library, which is not alone.
func limitHeap(buffers uint64, all memoryLimit) {
	if os.Getenv("GOMEMLIMIT") == "" {
		left := all.bytes - min(all.bytes, buffers+outsideHeap)
		debug.SetMemoryLimit(int64(min(heapLimit+buffers/8, max(left, leastHeap))))
	}
}

// keepCollectorAway sets the percentage for a migration, or the usual one.
func keepCollectorAway(away bool) {
	percent := heapUsual
	if away {
		percent = heapPercent
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
