package reader

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/vfio"
)

// endlessStream is a stream of the same bytes without end. It copies into the caller's buffer, as a
// driver does.
type endlessStream struct {
	vfio.Stream
	content   []byte
	into      []*byte // buffers of the reads
	recording bool
}

func (m *endlessStream) Read(p []byte) (int, error) {
	if m.recording {
		m.into = append(m.into, unsafe.SliceData(p))
	}
	return copy(p, m.content), nil
}

// nullLane is a lane that takes everything.
type nullLane struct {
	from      []*byte // addresses of the payloads
	sizes     []int
	recording bool
}

func (n *nullLane) Write(p []byte) (int, error) {
	if n.recording {
		n.from, n.sizes = append(n.from, unsafe.SliceData(p[40:])), append(n.sizes, len(p))
	}
	return len(p), nil
}
func (*nullLane) Read([]byte) (int, error)    { return 0, net.ErrClosed }
func (*nullLane) CloseWrite() error           { return nil }
func (*nullLane) SetDeadline(time.Time) error { return nil }
func (*nullLane) Close() error                { return nil }

// rawPath is a drain and a sender for bytes that are not encoded.
func rawPath(t testing.TB, chunk int, s *endlessStream, n *nullLane) (move func()) {
	arena, err := wire.NewArena(0, chunk, 4)
	if err != nil {
		t.Fatal(err)
	}
	spare, err := arena.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		spare.Release()
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	queue := newQueue(arena, 3, alone(0))
	queue.grant(0, wire.Window{Seq: 1 << 60, Offset: 1 << 60})
	d := &drain{
		stream: s, reader: newStreamReader(s, false), queue: queue, limit: chunk,
		stopCopy: make(chan struct{}), digest: wire.NewDigest(), start: time.Now(), firstReadAt: new(atomic.Int64),
	}
	out := &sender{lane: n, queue: queue, scratch: spare, codec: codec.Fixed(codec.Raw), pace: newPacer(new(Tuning)), devices: newDevices(make([]Source, 1)), spent: new(laneTimes), lastSentAt: new(atomic.Int64), written: new(atomic.Uint64)}
	ctx := context.Background()
	return func() {
		if _, err := d.readChunk(ctx); err != nil {
			t.Fatal(err)
		}
		c, err := queue.take(0)
		if err == nil {
			err = out.send(ctx, c)
		}
		if err != nil {
			t.Fatal(err)
		}
		seq := c.Seq
		queue.finishSend(c)
		queue.ack(0, seq+1)
	}
}

// TestRawPath checks that a lane gets the bytes at the address that read() wrote to.
func TestRawPath(t *testing.T) {
	s, n := &endlessStream{content: noise(1 << 20), recording: true}, &nullLane{recording: true}
	move := rawPath(t, 1<<20, s, n)
	for range 10 {
		move()
	}
	for i := range s.into {
		if s.into[i] != n.from[i] || n.sizes[i] != 40+(1<<20) {
			t.Errorf("chunk %d was read to %p and sent from %p, %d bytes with its head", i, s.into[i], n.from[i], n.sizes[i])
		}
	}
	if len(s.into) != 10 || len(n.from) != 10 {
		t.Errorf("10 chunks took %d reads and %d writes", len(s.into), len(n.from))
	}
	s.recording, n.recording = false, false
	if allocs := testing.AllocsPerRun(100, move); allocs != 0 {
		t.Errorf("a chunk costs %v allocations", allocs)
	}
}

// countingLane is a lane whose peer has all bytes before Write returns.
type countingLane struct {
	nullLane
	wire *atomic.Uint64
	seen []uint64
}

func (c *countingLane) Write(p []byte) (int, error) {
	c.seen = append(c.seen, c.wire.Load())
	return len(p), nil
}

// TestCountedWhenWritten checks that the counter is complete when the peer has the chunk, not when
// Write returns.
func TestCountedWhenWritten(t *testing.T) {
	arena, err := wire.NewArena(0, 4<<10, 2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := arena.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	spare, err := arena.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadRaw(bytes.NewReader(noise(4<<10)), 4<<10); err != nil {
		t.Fatal(err)
	}
	c.Seal(0, 0, 0)
	devices := newDevices(make([]Source, 1))
	lane := &countingLane{wire: &devices[0].sent}
	s := &sender{lane: lane, scratch: spare, codec: codec.Fixed(codec.Raw), pace: newPacer(new(Tuning)), devices: devices, spent: new(laneTimes), lastSentAt: new(atomic.Int64), written: new(atomic.Uint64)}
	if err := s.send(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{4 << 10}; !slices.Equal(lane.seen, want) {
		t.Errorf("counted during the write: %v, want %v", lane.seen, want)
	}
	c.Release()
	spare.Release()
	if err := arena.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkRawPath is the source's whole work on a chunk that is not encoded: read, digest, frame.
// It includes the copy of the simulated read(), as in the kernel; there is no other copy.
func BenchmarkRawPath(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(sizeName(size), func(b *testing.B) {
			move := rawPath(b, size, &endlessStream{content: noise(size)}, &nullLane{})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				move()
			}
		})
	}
}

// noise is bytes that no codec and no scan for zeros shortens.
func noise(n int) []byte {
	p := make([]byte, n)
	rand.Read(p)
	return p
}

func sizeName(n int) string {
	return map[int]string{4 << 10: "4KiB", 64 << 10: "64KiB", 1 << 20: "1MiB"}[n]
}
