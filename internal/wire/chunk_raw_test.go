//go:build !race

// The race detector allocates on its own account.

package wire

import (
	"bytes"
	"io"
	"testing"

	"github.com/migpipe/migpipe/codec"
)

// witness notes which memory it was given: to read into, and to write from.
type witness struct {
	read, written *byte
	bytes         int64
	writes        int
}

func (w *witness) Read(p []byte) (int, error) {
	w.read = &p[0]
	p[0] = 1 // or the chunk would be one of zeros
	return len(p), nil
}

func (w *witness) Write(p []byte) (int, error) {
	w.written = &p[chunkHeadLen]
	w.bytes += int64(len(p))
	w.writes++
	return len(p), nil
}

// sendRaw moves one chunk from a device to a lane.
func sendRaw(t testing.TB, c, spare *Chunk, w *witness, policy codec.Policy) {
	n, err := c.Fill(w, c.arena.chunkSize)
	if err != nil {
		t.Fatal(err)
	}
	c.Seal(0, 0, 0)
	out, _ := c.EncodeTo(spare, policy)
	if err := out.WriteFrame(w); err != nil {
		t.Fatal(err)
	}
	if w.read != w.written || n != c.arena.chunkSize {
		t.Fatalf("the device wrote to %p, the lane got %p", w.read, w.written)
	}
}

// The bytes that a device's read puts into a chunk are the bytes that the lane
// is handed: the same memory, behind a header in front of it, in one Write.
func TestRawChunkIsNotCopied(t *testing.T) {
	a := newArena(t, 0, 128<<10, 2)
	c, spare := mustGet(t, a), mustGet(t, a)
	defer c.Release()
	defer spare.Release()
	var w witness
	sendRaw(t, c, spare, &w, codec.Fixed(codec.Raw))
	if w.writes != 1 || w.bytes != 128<<10+chunkHeadLen {
		t.Fatalf("%d bytes in %d writes", w.bytes, w.writes)
	}
}

// And on the other side: the memory that the lane's Read is given is the memory
// that the device's Write is given.
func TestRawPayloadIsNotCopied(t *testing.T) {
	a := newArena(t, 0, 4096, 2)
	c, scratch := mustGet(t, a), mustGet(t, a)
	defer c.Release()
	defer scratch.Release()
	raw := make([]byte, 4096)
	raw[0] = 1 // as the witness leaves it
	head := ChunkHead{RawLen: 4096, WireLen: 4096}
	head.Digest = head.digest(raw)
	var from, to witness
	if err := c.ReadPayload(&from, head, scratch); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteRaw(writerFunc(func(p []byte) { to.written = &p[0] })); err != nil {
		t.Fatal(err)
	}
	if from.read != to.written {
		t.Fatalf("the lane wrote to %p, the device got %p", from.read, to.written)
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func TestRawPathAllocatesNothing(t *testing.T) {
	a := newArena(t, 0, 128<<10, 2)
	c, spare := mustGet(t, a), mustGet(t, a)
	defer func() { c.Release() }()
	defer spare.Release()
	var w witness
	policy := codec.Fixed(codec.Raw)
	if n := testing.AllocsPerRun(100, func() { sendRaw(t, c, spare, &w, policy) }); n != 0 {
		t.Errorf("sending a chunk allocates %v times", n)
	}

	var frame bytes.Buffer
	if err := c.WriteFrame(&frame); err != nil {
		t.Fatal(err)
	}
	var room HeadRoom
	lane := bytes.NewReader(nil)
	if n := testing.AllocsPerRun(100, func() {
		lane.Reset(frame.Bytes())
		head, err := ReadChunkHead(lane, &room)
		if err == nil {
			err = c.ReadPayload(lane, head, spare)
		}
		if err == nil {
			err = c.WriteRaw(io.Discard)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("receiving a chunk allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		c.Release()
		c = mustGet(t, a)
	}); n != 0 {
		t.Errorf("taking a chunk and giving it back allocates %v times", n)
	}
}

// BenchmarkChunkRaw is all that this package does to a chunk on the raw path:
// one pass for the zero scan, which ends at the first byte that is not zero, one
// for the digest, and no copy.
func BenchmarkChunkRaw(b *testing.B) {
	const size = 1 << 20
	a := newArena(b, 0, size, 2)
	c, spare := mustGet(b, a), mustGet(b, a)
	defer c.Release()
	defer spare.Release()
	var w witness
	policy := codec.Fixed(codec.Raw)
	copies := 0
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		sendRaw(b, c, spare, &w, policy)
		if w.read != w.written {
			copies++
		}
	}
	b.ReportMetric(float64(copies)/float64(b.N), "copies/op")
}
