package wire

import (
	"errors"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/codec"
)

// newArena returns an arena whose chunks must all be released at the end of the test.
func newArena(t testing.TB, memory, chunkSize, least int) *Arena {
	t.Helper()
	a, err := NewArena(memory, chunkSize, least)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func mustGet(t testing.TB, a *Arena) *Chunk {
	t.Helper()
	c, err := a.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestArenaSize(t *testing.T) {
	page := os.Getpagesize()
	stride := page + roundUp(codec.MaxEncodedLen(4096), page)
	for _, c := range []struct {
		name                           string
		memory, chunkSize, least, want int
	}{
		{"three, exactly", 3 * stride, 4096, 0, 3},
		{"a byte short of three", 3*stride - 1, 4096, 0, 2},
		{"the least, however small the memory", 0, 4096, 2, 2},
		{"the smallest chunk", 0, 1, 1, 1},
		{"the largest chunk", 0, MaxChunk, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArena(t, c.memory, c.chunkSize, c.least)
			if a.Count() != c.want || a.InUse() != 0 || a.ChunkSize() != c.chunkSize {
				t.Fatalf("%d chunks of %d, %d in use, want %d of %d", a.Count(), a.ChunkSize(), a.InUse(), c.want, c.chunkSize)
			}
			if c.least == 0 && len(a.mem) > c.memory {
				t.Fatalf("%d bytes mapped of %d", len(a.mem), c.memory)
			}
		})
	}
}

func TestArenaRefuses(t *testing.T) {
	for _, size := range []int{-1, 0, MaxChunk + 1} {
		if _, err := NewArena(1<<20, size, 1); err == nil || !strings.Contains(err.Error(), "chunk size") {
			t.Errorf("chunk size %d: %v", size, err)
		}
	}
	if _, err := NewArena(0, 4096, 0); err == nil {
		t.Error("NewArena accepts 0 chunks")
	}
}

// TestArenaPages checks that payloads begin at page boundaries, and that chunks do not overlap.
func TestArenaPages(t *testing.T) {
	a := newArena(t, 0, 5000, 4)
	seen := map[uintptr]bool{}
	var chunks []*Chunk
	for range a.Count() {
		c := mustGet(t, a)
		chunks = append(chunks, c)
		at := uintptr(unsafe.Pointer(&c.buf[chunkHeadLen]))
		if at%uintptr(os.Getpagesize()) != 0 {
			t.Errorf("payload at %#x", at)
		}
		if seen[at] {
			t.Errorf("two chunks at %#x", at)
		}
		seen[at] = true
		if room := len(c.buf) - chunkHeadLen; room < codec.MaxEncodedLen(5000) {
			t.Errorf("room for %d bytes", room)
		}
		for i := range c.buf {
			c.buf[i] = byte(len(chunks)) // shows an overlap
		}
	}
	for i, c := range chunks {
		for _, b := range c.buf {
			if b != byte(i+1) {
				t.Fatal("chunks overlap")
			}
		}
		c.Release()
	}
}

func TestArenaExhausted(t *testing.T) {
	a := newArena(t, 0, 4096, 2)
	one, two := mustGet(t, a), mustGet(t, a)
	if _, err := a.TryGet(); !errors.Is(err, ErrArenaFull) {
		t.Fatalf("third chunk of two: %v", err)
	}
	one.Seq = 7
	one.Release()
	again := mustGet(t, a)
	if again != one {
		t.Error("TryGet does not return the chunk that was released last")
	}
	if again.Seq != 0 {
		t.Error("a chunk has the header of its last owner")
	}
	again.Release()
	if a.InUse() != 1 {
		t.Fatalf("%d in use", a.InUse())
	}
	two.Release()
}

func TestReleaseTwicePanics(t *testing.T) {
	c := mustGet(t, newArena(t, 0, 4096, 1))
	c.Release()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	c.Release()
}

func TestArenaCloseReportsLeaks(t *testing.T) {
	a := newArena(t, 0, 4096, 3)
	c := mustGet(t, a)
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "1 of 3 chunks in use") {
		t.Fatalf("Close: %v", err)
	}
	c.buf[0] = 1 // still mapped
	c.Release()
}

// TestPipesAreShared checks that chunks which are spliced one after the other use one pipe.
func TestPipesAreShared(t *testing.T) {
	arena, err := NewArena(1<<20, 4096, 16)
	if err != nil {
		t.Fatal(err)
	}
	before := openFDs(t)
	for range 3 * arena.Count() {
		c, err := arena.TryGet()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.Splice(zeroSource{}, 100); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		if err := c.Unsplice(); err != nil {
			t.Fatal(err)
		}
		c.Release()
	}
	if n := openFDs(t) - before; n != 2 {
		t.Errorf("%d descriptors are open, want the 2 of a pipe", n)
	}
	if err := arena.Close(); err != nil {
		t.Fatal(err)
	}
	if n := openFDs(t) - before; n != 0 {
		t.Errorf("%d descriptors are open after Close", n)
	}
}

// zeroSource is a SpliceSource of zeros.
type zeroSource struct{}

func (zeroSource) SpliceTo(pipe, n int) (int, error) { return unix.Write(pipe, make([]byte, n)) }

func openFDs(t *testing.T) int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
