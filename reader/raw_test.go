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

// memory is a stream of the same bytes without end, as a driver gives them: by
// a copy into the caller's buffer.
type memory struct {
	vfio.Stream
	content []byte
	into    []*byte // where it was asked to put them
	note    bool
}

func (m *memory) Read(p []byte) (int, error) {
	if m.note {
		m.into = append(m.into, unsafe.SliceData(p))
	}
	return copy(p, m.content), nil
}

// null is a lane that takes everything.
type null struct {
	from  []*byte // where the payloads were
	sizes []int
	note  bool
}

func (n *null) Write(p []byte) (int, error) {
	if n.note {
		n.from, n.sizes = append(n.from, unsafe.SliceData(p[40:])), append(n.sizes, len(p))
	}
	return len(p), nil
}
func (*null) Read([]byte) (int, error)    { return 0, net.ErrClosed }
func (*null) CloseWrite() error           { return nil }
func (*null) SetDeadline(time.Time) error { return nil }
func (*null) Close() error                { return nil }

// rawPath is a drain and a sender on the way of bytes that go as they are.
func rawPath(t testing.TB, chunk int, s *memory, n *null) (move func()) {
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
		stream: s, tap: newTap(s, false), queue: queue, limit: chunk,
		final: make(chan struct{}), digest: wire.NewDigest(), start: time.Now(), begun: new(atomic.Int64),
	}
	out := &sender{lane: n, queue: queue, spare: spare, codec: codec.Fixed(codec.Raw), pace: newPacer(new(Tuning)), devices: newDevices(make([]Source, 1)), spent: new(laneTimes), sent: new(atomic.Int64), written: new(atomic.Uint64)}
	ctx := context.Background()
	return func() {
		if _, err := d.next(ctx); err != nil {
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
		queue.took(c)
		queue.applied(0, seq+1)
	}
}

// TestRawPath: what a lane is given is, at the same address, what read() was.
func TestRawPath(t *testing.T) {
	s, n := &memory{content: noise(1 << 20), note: true}, &null{note: true}
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
	s.note, n.note = false, false
	if allocs := testing.AllocsPerRun(100, move); allocs != 0 {
		t.Errorf("a chunk costs %v allocations", allocs)
	}
}

// counting is a lane whose peer has all that was written before Write returns.
type counting struct {
	null
	wire *atomic.Uint64
	seen []uint64
}

func (c *counting) Write(p []byte) (int, error) {
	c.seen = append(c.seen, c.wire.Load())
	return len(p), nil
}

// TestCountedWhenWritten: the figure is whole when the peer has the chunk, not
// when the sender hears that it has.
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
	if _, err := c.Fill(bytes.NewReader(noise(4<<10)), 4<<10); err != nil {
		t.Fatal(err)
	}
	c.Seal(0, 0, 0)
	devices := newDevices(make([]Source, 1))
	lane := &counting{wire: &devices[0].sent}
	s := &sender{lane: lane, spare: spare, codec: codec.Fixed(codec.Raw), pace: newPacer(new(Tuning)), devices: devices, spent: new(laneTimes), sent: new(atomic.Int64), written: new(atomic.Uint64)}
	if err := s.send(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{4 << 10}; !slices.Equal(lane.seen, want) {
		t.Errorf("counted while it was written: %v, want %v", lane.seen, want)
	}
	c.Release()
	spare.Release()
	if err := arena.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkRawPath is the source's whole part in a chunk that goes as it is:
// read, digest, frame. The copy of the simulated read() is in it, as it would
// be in the kernel; there is no other.
func BenchmarkRawPath(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(sizeName(size), func(b *testing.B) {
			move := rawPath(b, size, &memory{content: noise(size)}, &null{})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				move()
			}
		})
	}
}

// noise is what no codec and no scan for zeros makes shorter.
func noise(n int) []byte {
	p := make([]byte, n)
	rand.Read(p)
	return p
}

func sizeName(n int) string {
	return map[int]string{4 << 10: "4KiB", 64 << 10: "64KiB", 1 << 20: "1MiB"}[n]
}
