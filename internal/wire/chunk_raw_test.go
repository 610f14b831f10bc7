//go:build !race

// The race detector makes allocations of its own.

package wire

import (
	"bytes"
	"io"
	"testing"

	"github.com/migpipe/migpipe/codec"
)

// recorder records the memory that it reads into and writes from.
type recorder struct {
	read, written *byte
	bytes         int64
	writes        int
}

func (w *recorder) Read(p []byte) (int, error) {
	w.read = &p[0]
	p[0] = 1 // avoids a chunk of zeros
	return len(p), nil
}

func (w *recorder) Write(p []byte) (int, error) {
	w.written = &p[chunkHeadLen]
	w.bytes += int64(len(p))
	w.writes++
	return len(p), nil
}

// sendRaw transfers one chunk from a device to a lane.
func sendRaw(t testing.TB, c, spare *Chunk, w *recorder, policy codec.Policy) {
	n, err := c.ReadRaw(w, c.arena.chunkSize)
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

// TestRawChunkIsNotCopied checks that the lane writes the memory into which the device
// was read, with the header before it, in one Write.
func TestRawChunkIsNotCopied(t *testing.T) {
	a := newArena(t, 0, 128<<10, 2)
	c, spare := mustGet(t, a), mustGet(t, a)
	defer c.Release()
	defer spare.Release()
	var w recorder
	sendRaw(t, c, spare, &w, codec.Fixed(codec.Raw))
	if w.writes != 1 || w.bytes != 128<<10+chunkHeadLen {
		t.Fatalf("%d bytes in %d writes", w.bytes, w.writes)
	}
}

// TestRawPayloadIsNotCopied checks that the destination's device is written from the
// memory into which the lane was read.
func TestRawPayloadIsNotCopied(t *testing.T) {
	a := newArena(t, 0, 4096, 2)
	c, scratch := mustGet(t, a), mustGet(t, a)
	defer c.Release()
	defer scratch.Release()
	raw := make([]byte, 4096)
	raw[0] = 1 // as recorder.Read sets it
	head := ChunkHead{RawLen: 4096, WireLen: 4096}
	head.Digest = head.digest(raw)
	var from, to recorder
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
	var w recorder
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
		t.Errorf("TryGet and Release of a chunk allocate %v times", n)
	}
}

// BenchmarkChunkRaw measures this package's work for a raw chunk: the check for zeros,
// which ends at the first non-zero byte, and one pass for the digest.
func BenchmarkChunkRaw(b *testing.B) {
	const size = 1 << 20
	a := newArena(b, 0, size, 2)
	c, spare := mustGet(b, a), mustGet(b, a)
	defer c.Release()
	defer spare.Release()
	var w recorder
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
