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

// ErrArenaFull is the error if no chunk is free. At the destination it means a broken
// promise, since memory was reserved for every byte of credit.
var ErrArenaFull = errors.New("no free chunk in the arena")

// Arena is a fixed number of chunk buffers in one anonymous mapping. The mapping is
// outside the garbage collector's heap, page-aligned, and of huge pages if the kernel
// has any. All pages are resident from the start, so that a device's read(2) never
// faults: a fault that fails during the copy loses bytes that the driver counts as
// read.
type Arena struct {
	pages
	chunkSize int
	count     int
	pipes     pipePool

	mu   sync.Mutex
	free []*Chunk
}

// NewArena maps as many chunks of chunkSize bytes as fit into memory bytes, but at
// least least chunks.
func NewArena(memory, chunkSize, least int) (*Arena, error) {
	if chunkSize < 1 || chunkSize > MaxChunk {
		return nil, fmt.Errorf("transport: chunk size %d is not between 1 and %d", chunkSize, MaxChunk)
	}
	page := os.Getpagesize()
	// The frame header is at the end of a page before the payload. So one Write
	// covers header and payload, and the payload begins at a page boundary. After
	// the payload is room for an encoding that is longer.
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

// TryGet returns a free chunk, or fails with ErrArenaFull. It returns the chunk that
// was released last, which is most likely in the processor's caches.
func (a *Arena) TryGet() (*Chunk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := len(a.free) - 1
	if last < 0 {
		return nil, ErrArenaFull
	}
	c := a.free[last]
	a.free = a.free[:last]
	return c.reset(), nil
}

// put adds a released chunk to the free ones.
func (a *Arena) put(c *Chunk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = append(a.free, c) // has room for all
}

// ChunkSize returns the size of the largest payload of a chunk, in bytes.
func (a *Arena) ChunkSize() int { return a.chunkSize }

// Count returns the number of chunks, in use or free.
func (a *Arena) Count() int { return a.count }

// InUse returns the number of chunks that have an owner.
func (a *Arena) InUse() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count - len(a.free)
}

// Close unmaps the arena. All chunks must have been released. Otherwise the caller
// has a leak: Close returns an error and does not unmap the memory, since the owner
// of a chunk may still use it.
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
