package transport

import (
	"crypto/rand"
	"fmt"
	"io"
)

// Padding is what a source sends before a stop to open the congestion windows of
// its lanes, and to see how fast they are. It belongs to no stream.

// Noise fills the chunk's buffer with what nobody on the way can compress, for
// WritePadding.
func (c *Chunk) Noise() { rand.Read(c.buf) }

// WritePadding writes one frame of n bytes of padding, at most the arena's chunk
// size. The bytes are whatever the buffer holds.
func (c *Chunk) WritePadding(w io.Writer, n int) error {
	h := ChunkHead{Padding: true, WireLen: uint32(n)}
	h.encode(c.buf)
	_, err := w.Write(c.buf[:chunkHeadLen+n])
	return err
}

// Discard reads the payload of a frame of padding, into the chunk's buffer.
func (c *Chunk) Discard(r io.Reader, head ChunkHead) error {
	if int(head.WireLen) > c.arena.chunkSize {
		return fmt.Errorf("%w: padding of %d bytes, negotiated %d", ErrProtocol, head.WireLen, c.arena.chunkSize)
	}
	_, err := io.ReadFull(r, c.buf[:head.WireLen])
	return noEOF(err)
}
