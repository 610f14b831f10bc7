package writer

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
)

// TestCredit checks that the memory suffices for everything that several devices send within their
// windows, in any order and with any estimates. The arena has no chunk that was not promised.
func TestCredit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "devices")
		chunks := minChunks(0, n) + rapid.IntRange(0, 12).Draw(t, "more")
		arena, c := testArena(t, chunks), newCredit(chunks, testChunk, make([]share.Need, n))
		var merges []*merge
		sent, bytes := make([]uint64, n), make([]uint64, n)
		for i := range n {
			merges = append(merges, newMerge(c, i, wire.MaxStream))
		}
		any := rapid.IntRange(0, n-1)
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				i := any.Draw(t, "device")
				ack, _ := merges[i].status()
				if sent[i] >= ack.Window.Seq {
					t.Skip("no credit")
				}
				size := rapid.IntRange(1, testChunk).Draw(t, "bytes")
				head := wire.ChunkHead{Seq: sent[i], Offset: bytes[i], RawLen: uint32(size)}
				if _, err := merges[i].claim(head, nil); err != nil {
					t.Fatal(err)
				}
				merges[i].deliver(chunkOf(t, arena, sent[i], bytes[i], make([]byte, size)))
				sent[i], bytes[i] = sent[i]+1, bytes[i]+uint64(size)
			},
			"apply": func(t *rapid.T) {
				m := merges[any.Draw(t, "device")]
				chunk, _ := m.tryTake()
				if chunk == nil {
					t.Skip("nothing to apply")
				}
				size := chunk.RawLen
				chunk.Release()
				m.markApplied(size, 0)
			},
			"end": func(t *rapid.T) {
				m := merges[any.Draw(t, "device")]
				if !m.hasEnd() {
					m.setEnd(&wire.End{Chunks: rapid.Uint64Max(20).Draw(t, "chunks")})
				}
			},
			"estimate": func(t *rapid.T) {
				needs := make([]share.Need, n)
				for i := range needs {
					needs[i] = share.Need{Bytes: rapid.Uint64().Draw(t, "bytes"), Known: rapid.Bool().Draw(t, "known")}
				}
				c.divide(needs)
			},
			"exceed": func(t *rapid.T) {
				i := any.Draw(t, "device")
				ack, _ := merges[i].status()
				if _, err := merges[i].claim(wire.ChunkHead{Seq: ack.Window.Seq, Offset: bytes[i], RawLen: 1}, nil); err == nil {
					t.Fatalf("chunk %d of a window to %d was taken", ack.Window.Seq, ack.Window.Seq)
				}
			},
			"": func(t *rapid.T) {
				for i, m := range merges {
					ack, _ := m.status()
					if room := ack.Window.Seq - ack.Seq; !m.hasEnd() && room < share.Floor || ack.Window.Offset < ack.Applied+room*testChunk {
						t.Fatalf("device %d has %+v", i, ack)
					}
				}
			},
		})
		for _, m := range merges {
			m.discardAll()
		}
		if err := arena.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEstimateRemaining checks the estimates of the remaining bytes.
func TestEstimateRemaining(t *testing.T) {
	for _, c := range []struct {
		name               string
		d                  wire.DeviceEstimate
		stopped            bool
		applied, sinceStop uint64
		want               uint64
	}{
		{"nothing is known", wire.DeviceEstimate{}, false, 10, 0, 0},
		{"in PRE_COPY, what is pending", wire.DeviceEstimate{Initial: 1, Dirty: 2, StopCopy: 100}, false, 10, 0, 3},
		{"no PRE_COPY", wire.DeviceEstimate{StopCopy: 100}, false, 0, 0, 100},
		{"an image that counts from the start", wire.DeviceEstimate{Dirty: 5, StopCopy: 100}, true, 70, 3, 30},
		{"an image that has arrived", wire.DeviceEstimate{Dirty: 5, StopCopy: 100}, true, 170, 3, 2},
		{"more than the estimate", wire.DeviceEstimate{Dirty: 5, StopCopy: 100}, true, 170, 30, 0},
		{"absurd", wire.DeviceEstimate{Initial: math.MaxUint64, Dirty: math.MaxUint64}, false, 0, 0, math.MaxUint64},
	} {
		if got := estimateRemaining(c.d, c.stopped, c.applied, c.sinceStop); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
