package writer

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

const testChunk = 64

// testArena has no more chunks than were promised, so that a broken promise shows.
func testArena(t interface{ Fatal(...any) }, chunks int) *wire.Arena {
	arena, err := wire.NewArena(0, testChunk, chunks)
	if err != nil {
		t.Fatal(err)
	}
	return arena
}

// alone is the credit of one device.
func alone(chunks int) *credit { return newCredit(chunks, testChunk, make([]share.Need, 1)) }

// chunkOf makes a chunk as a lane delivers it.
func chunkOf(t interface{ Fatal(...any) }, a *wire.Arena, seq, offset uint64, data []byte) *wire.Chunk {
	c, err := a.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadRaw(bytes.NewReader(data), len(data)); err != nil {
		t.Fatal(err)
	}
	c.Seal(0, seq, offset)
	return c
}

// sourceModel models a source whose lanes carry a stream in any order.
type sourceModel struct {
	*rapid.T
	arena *wire.Arena
	merge *merge
	sent  []wire.ChunkHead // cut, and put on one of the lanes
	lanes [][]wire.ChunkHead
	next  int    // number of the chunk to be applied
	bytes uint64 // of the stream so far
}

// TestMerge checks that chunks leave in order, for every order of arrival, and never take more
// memory than was promised.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunks := rapid.IntRange(1, 8).Draw(t, "promised")
		s := &sourceModel{T: t, arena: testArena(t, chunks), lanes: make([][]wire.ChunkHead, rapid.IntRange(1, 4).Draw(t, "lanes"))}
		s.merge = newMerge(alone(chunks), 0, wire.MaxStream)
		t.Repeat(map[string]func(*rapid.T){
			"cut": s.cut, "arrive": s.arrive, "apply": s.apply, "repeat": s.repeat, "break off": s.breakOff, "exceed": s.exceed,
			"": func(t *rapid.T) {
				if s.arena.InUse() > chunks {
					t.Fatalf("%d chunks in use, %d were promised", s.arena.InUse(), chunks)
				}
			},
		})
		s.merge.discardAll()
		if err := s.arena.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// cut puts the next chunk that the window allows on a lane.
func (s *sourceModel) cut(t *rapid.T) {
	ack, _ := s.merge.status()
	room := ack.Window.Offset - min(ack.Window.Offset, s.bytes)
	if uint64(len(s.sent)) >= ack.Window.Seq || room == 0 {
		t.Skip("no credit")
	}
	n := rapid.Uint64Range(1, min(room, testChunk)).Draw(t, "bytes")
	h := wire.ChunkHead{Seq: uint64(len(s.sent)), Offset: s.bytes, RawLen: uint32(n)}
	lane := rapid.IntRange(0, len(s.lanes)-1).Draw(t, "lane")
	s.lanes[lane] = append(s.lanes[lane], h)
	s.sent, s.bytes = append(s.sent, h), s.bytes+n
}

// arrive delivers the first chunk of a lane: a promise covers it.
func (s *sourceModel) arrive(t *rapid.T) {
	lane := rapid.IntRange(0, len(s.lanes)-1).Draw(t, "lane")
	if len(s.lanes[lane]) == 0 {
		t.Skip("lane is empty")
	}
	h := s.lanes[lane][0]
	s.lanes[lane] = s.lanes[lane][1:]
	if _, err := s.merge.claim(h, nil); err != nil {
		t.Fatal(err)
	}
	s.merge.deliver(chunkOf(t, s.arena, h.Seq, h.Offset, make([]byte, h.RawLen)))
}

// apply takes the next chunk, if it has come, and repeats it during its write.
func (s *sourceModel) apply(t *rapid.T) {
	c, _ := s.merge.tryTake()
	if c == nil {
		t.Skip("nothing to apply")
	}
	want := s.sent[s.next]
	if c.Seq != want.Seq || c.Offset != want.Offset || c.RawLen != want.RawLen {
		t.Fatalf("chunk %+v came out, want %+v", c.ChunkHead, want)
	}
	s.again(t, want)
	s.next++
	c.Release()
	s.merge.markApplied(want.RawLen, 0)
}

// repeat sends a chunk that has arrived again.
func (s *sourceModel) repeat(t *rapid.T) {
	waiting := map[uint64]bool{}
	for _, lane := range s.lanes {
		for _, h := range lane {
			waiting[h.Seq] = true
		}
	}
	if len(s.sent) == 0 {
		t.Skip("nothing was sent")
	}
	if h := rapid.SampledFrom(s.sent).Draw(t, "chunk"); !waiting[h.Seq] {
		s.again(t, h)
	}
}

// again sends a chunk that came before, and checks that it is recognised.
func (s *sourceModel) again(t *rapid.T, h wire.ChunkHead) {
	if rival, err := s.merge.claim(h, new(receiver)); rival != nil || err != errDuplicate {
		t.Fatalf("claim of %+v, once more: %v, %v", h, rival, err)
	}
}

// breakOff loses a lane in the middle of a chunk, which another lane then brings.
func (s *sourceModel) breakOff(t *rapid.T) {
	lane := rapid.IntRange(0, len(s.lanes)-1).Draw(t, "lane")
	if len(s.lanes[lane]) == 0 {
		t.Skip("lane is empty")
	}
	h, lost, other := s.lanes[lane][0], new(receiver), new(receiver)
	if rival, err := s.merge.claim(h, lost); rival != nil || err != nil {
		t.Fatalf("claim of %+v: %v, %v", h, rival, err)
	}
	if rival, err := s.merge.claim(h, other); rival != lost || err != nil {
		t.Fatalf("claim of %+v, which another lane brings: %v, %v", h, rival, err)
	}
	s.merge.unclaim(h.Seq)
}

// exceed goes beyond the promise, in chunks and in bytes.
func (s *sourceModel) exceed(t *rapid.T) {
	ack, _ := s.merge.status()
	s.refused(t, wire.ChunkHead{Seq: ack.Window.Seq + rapid.Uint64Max(1<<50).Draw(t, "chunks"), Offset: s.bytes, RawLen: 1})
	s.refused(t, wire.ChunkHead{Seq: ack.Seq, Offset: ack.Window.Offset + rapid.Uint64Max(1<<50).Draw(t, "bytes"), RawLen: 1})
}

func (s *sourceModel) refused(t *rapid.T, h wire.ChunkHead) {
	if _, err := s.merge.claim(h, nil); !errors.Is(err, transport.ErrProtocol) {
		t.Fatalf("claim of %+v: %v, want a protocol error", h, err)
	}
}

func TestMergeLimit(t *testing.T) {
	m := newMerge(alone(4), 0, 100)
	if _, err := m.claim(wire.ChunkHead{Offset: 90, RawLen: 10}, nil); err != nil {
		t.Errorf("up to the limit: %v", err)
	}
	if _, err := m.claim(wire.ChunkHead{Seq: 1, Offset: 90, RawLen: 11}, nil); transport.CodeOf(err) != transport.CodeLimit {
		t.Errorf("beyond the limit: %v", err)
	}
}

func TestMergeEnd(t *testing.T) {
	m := newMerge(alone(4), 0, 1<<20)
	if _, err := m.setEnd(&wire.End{Chunks: 1}); err != nil {
		t.Fatal(err)
	}
	if c, end := m.tryTake(); c != nil || end != nil {
		t.Errorf("END of one chunk, none arrived: %v, %v", c, end)
	}
	if fresh, err := m.setEnd(&wire.End{Chunks: 1}); fresh || err != nil {
		t.Errorf("the same END again: %v, %v", fresh, err)
	}
	if _, err := m.setEnd(&wire.End{Chunks: 2}); !errors.Is(err, transport.ErrProtocol) {
		t.Errorf("another END: %v", err)
	}
	m.markApplied(1, 0)
	if _, end := m.tryTake(); end == nil {
		t.Error("no end after the last chunk")
	}
}

// TestMergeTake checks that take sleeps until there is a chunk for it, or ctx ends.
func TestMergeTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arena := testArena(t, 2)
		m := newMerge(alone(2), 0, 1<<20)
		ctx, cancel := context.WithCancel(t.Context())
		var seqs []uint64
		var err error
		go func() {
			var c *wire.Chunk
			for c, _, err = m.take(ctx); err == nil; c, _, err = m.take(ctx) {
				seqs = append(seqs, c.Seq)
				n := c.RawLen
				c.Release()
				m.markApplied(n, 0)
			}
		}()
		deliver := func(seq uint64) {
			if _, err := m.claim(wire.ChunkHead{Seq: seq, Offset: seq, RawLen: 1}, nil); err != nil {
				t.Fatal(err)
			}
			m.deliver(chunkOf(t, arena, seq, seq, []byte{1}))
			synctest.Wait()
		}
		deliver(1)
		if len(seqs) != 0 {
			t.Fatalf("chunks %v left before their turn", seqs)
		}
		deliver(0)
		deliver(2)
		if len(seqs) != 3 {
			t.Fatalf("chunks %v, want 3", seqs)
		}
		cancel()
		synctest.Wait()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("take after the cancel: %v", err)
		}
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestWindowNeverShrinks checks that short chunks, and memory that goes to another device, revoke
// no promise: a source may have read as far as it was promised.
func TestWindowNeverShrinks(t *testing.T) {
	c := newCredit(8, testChunk, make([]share.Need, 2))
	m := newMerge(c, 0, 1<<20)
	arena := testArena(t, 8)
	before, _ := m.status()
	c.divide([]share.Need{{Known: true}, {Bytes: 1 << 30, Known: true}})
	for seq := range before.Window.Seq {
		chunk := chunkOf(t, arena, seq, seq, []byte{1})
		if _, err := m.claim(chunk.ChunkHead, nil); err != nil {
			t.Fatal(err)
		}
		m.deliver(chunk)
		got, _ := m.tryTake()
		got.Release()
		m.markApplied(1, 0)
		after, _ := m.status()
		if after.Window.Offset < before.Window.Offset || after.Window.Seq < before.Window.Seq {
			t.Errorf("%d chunks later: the window was %+v, and is %+v", seq+1, before.Window, after.Window)
		}
		before = after
	}
	if err := arena.Close(); err != nil {
		t.Error(err)
	}
}
