package wire

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/codec"
)

// ErrArenaFull says that no chunk is free. On the receiving side it is a
// broken promise: every byte of credit stands for memory that was set aside.
var ErrArenaFull = errors.New("no free chunk in the arena")

// Arena is a fixed number of chunk buffers in one anonymous mapping: outside the
// garbage collector's heap, page-aligned, of huge pages where there are any, and
// touched before it is handed out, so that a device's read(2) never faults on it (a
// fault that fails mid-copy loses bytes that the driver already counts as read).
type Arena struct {
	pages
	chunkSize int
	count     int
	pipes     pipePool

	mu   sync.Mutex
	free []*Chunk
}

// NewArena maps as many chunks of chunkSize bytes as memory holds, at least
// least of them however small memory is.
func NewArena(memory, chunkSize, least int) (*Arena, error) {
	if chunkSize < 1 || chunkSize > MaxChunk {
		return nil, fmt.Errorf("transport: chunk size %d is not between 1 and %d", chunkSize, MaxChunk)
	}
	page := os.Getpagesize()
	// One page in front of the payload holds the frame header, at its very end,
	// so that header and payload are one contiguous Write and the payload starts
	// on a page boundary. Behind it is room for a codec that expands.
	stride := page + roundUp(codec.MaxEncodedLen(chunkSize), page)
	count := max(memory/stride, least)
	if count > (math.MaxInt-hugePage)/stride { // only where an int has 32 bits
		return nil, fmt.Errorf("transport: map %d chunks of %d bytes: %w", count, stride, unix.ENOMEM)
	}
	p, err := mapPages(count * stride)
	if err != nil {
		return nil, fmt.Errorf("transport: map %d bytes for %d chunks: %w", count*stride, count, err)
	}
	a := &Arena{pages: p, chunkSize: chunkSize, count: count, free: make([]*Chunk, 0, count)}
	for i := range count {
		slot := p.mem[i*stride : (i+1)*stride : (i+1)*stride]
		a.put(&Chunk{arena: a, buf: slot[page-chunkHeadLen:], free: true})
	}
	return a, nil
}

// TryGet takes the chunk that was given back last, which the processor's caches are
// likeliest to hold, or fails with ErrArenaFull.
func (a *Arena) TryGet() (*Chunk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := len(a.free) - 1
	if last < 0 {
		return nil, ErrArenaFull
	}
	c := a.free[last]
	a.free = a.free[:last]
	return c.take(), nil
}

// put takes a chunk back.
func (a *Arena) put(c *Chunk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = append(a.free, c) // has room for all
}

// ChunkSize is the most payload that one chunk holds, in bytes.
func (a *Arena) ChunkSize() int { return a.chunkSize }

// Count is the number of chunks, in use or free.
func (a *Arena) Count() int { return a.count }

// InUse is the number of chunks that somebody owns.
func (a *Arena) InUse() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count - len(a.free)
}

// Close unmaps the arena. Every chunk must have been released: a chunk still
// in use is a leak in the caller, which Close reports; the memory then stays
// mapped, since its owner may yet touch it.
func (a *Arena) Close() error {
	if a.mem == nil {
		return nil
	}
	if n := a.InUse(); n != 0 {
		return fmt.Errorf("transport: arena closed with %d of %d chunks in use", n, a.count)
	}
	a.pipes.close()
	err := a.unmap()
	a.pages = pages{}
	return err
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }
