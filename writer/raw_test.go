package writer

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// frameLane is a lane that brings the same bytes in each chunk.
type frameLane struct {
	transport.Lane
	heads     []byte // of all chunks, 40 bytes each
	payload   []byte
	left      int     // of the payload
	into      []*byte // buffers of the payloads
	recording bool
}

// newFrameLane makes the frames of n chunks.
func newFrameLane(t testing.TB, n, size int) *frameLane {
	f := &frameLane{payload: make([]byte, size)}
	rand.Read(f.payload)
	arena, err := wire.NewArena(0, size, 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := arena.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadRaw(bytes.NewReader(f.payload), size); err != nil {
		t.Fatal(err)
	}
	var frame bytes.Buffer
	for seq := range uint64(n) {
		c.Seal(0, seq, seq*uint64(size))
		frame.Reset()
		c.WriteFrame(&frame)
		f.heads = append(f.heads, frame.Bytes()[:40]...)
	}
	c.Release()
	if err := arena.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *frameLane) Read(p []byte) (int, error) {
	if f.left > 0 {
		if f.recording {
			f.into = append(f.into, unsafe.SliceData(p))
		}
		n := copy(p, f.payload[len(f.payload)-f.left:])
		f.left -= n
		return n, nil
	}
	if len(f.heads) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.heads[:40])
	f.heads, f.left = f.heads[40:], len(f.payload)
	return n, nil
}

// recorder is a stream that takes everything.
type recorder struct {
	vfio.Stream
	from      []*byte
	recording bool
}

func (d *recorder) Write(p []byte) (int, error) {
	if d.recording {
		d.from = append(d.from, unsafe.SliceData(p))
	}
	return len(p), nil
}

// rawPath is a receiver, a merge and a loader for bytes that are not encoded.
func rawPath(t testing.TB, size int, lane *frameLane, dev *recorder) (move func()) {
	arena, err := wire.NewArena(0, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := arena.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		scratch.Release()
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	m := newMerge(newCredit(2, size, make([]share.Need, 1)), 0, wire.MaxStream)
	acks := &acker{credit: m.credit, merges: []*merge{m}, due: make(chan struct{}, 1)}
	r := &receiver{lane: lane, arena: arena, scratch: scratch, devices: []*device{{Target: Target{Name: "d"}, merge: m}}, read: new(atomic.Uint64)}
	r.codecs[codec.IDRaw] = true
	l := &loader{stream: dev, merge: m, digest: wire.NewDigest(), noteApplied: func() { acks.noteApplied(0) }}
	ctx := context.Background()
	room := new(wire.HeadRoom)
	return func() {
		head, err := wire.ReadChunkHead(lane, room)
		if err == nil {
			err = r.readChunk(head)
		}
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := m.take(ctx)
		if err == nil {
			err = l.applyChunk(c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRawPath checks that the device gets the bytes at the address that the lane was read to.
func TestRawPath(t *testing.T) {
	lane, dev := newFrameLane(t, 200, 64<<10), &recorder{recording: true}
	lane.recording = true
	move := rawPath(t, 64<<10, lane, dev)
	for range 10 {
		move()
	}
	for i := range lane.into {
		if lane.into[i] != dev.from[i] {
			t.Errorf("chunk %d was received at %p and written from %p", i, lane.into[i], dev.from[i])
		}
	}
	if len(lane.into) != 10 || len(dev.from) != 10 {
		t.Errorf("10 chunks took %d reads and %d writes", len(lane.into), len(dev.from))
	}
	lane.recording, dev.recording = false, false
	if allocs := testing.AllocsPerRun(100, move); allocs != 0 {
		t.Errorf("a chunk costs %v allocations", allocs)
	}
}

// BenchmarkRawPath is the destination's whole work on a chunk that is not encoded: header, credit,
// digest, order, write. It includes the copy of the simulated lane's Read, as in a socket's; there
// is no other copy.
func BenchmarkRawPath(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(sizeName(size), func(b *testing.B) {
			move := rawPath(b, size, newFrameLane(b, b.N, size), &recorder{})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				move()
			}
		})
	}
}

func sizeName(n int) string {
	return map[int]string{4 << 10: "4KiB", 64 << 10: "64KiB", 1 << 20: "1MiB"}[n]
}
