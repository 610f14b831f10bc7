package reader

import (
	"fmt"
	"testing"

	"github.com/migpipe/migpipe/transport"
)

// BenchmarkQueue is a chunk's whole way through the queue without its bytes: memory,
// put, take, sent, applied. A chunk of 1 MiB takes some 100 µs to read, sum up and send.
// The queue is empty, or so many chunks wait for a lane.
func BenchmarkQueue(b *testing.B) {
	for _, waiting := range []uint64{0, 32} {
		b.Run(fmt.Sprint(waiting), func(b *testing.B) {
			f := newFilling(b, 64, alone(0))
			f.grant(0, all)
			b.ReportAllocs()
			for i := range uint64(b.N) + waiting {
				c, err := f.get(b.Context(), 0)
				if err != nil {
					b.Fatal(err)
				}
				c.ChunkHead = transport.ChunkHead{Seq: i, Offset: i * 10, RawLen: 10}
				f.put(c)
				if i >= waiting {
					f.done(f.one())
				}
			}
		})
	}
}
