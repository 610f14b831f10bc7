package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/crc32c"
	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// chunkHeadLen is the length of a data frame's header (PROTOCOL.md, "Data frames").
const chunkHeadLen = 40

// Types of data frame.
const (
	frameChunk   = 1
	framePadding = 2 // the destination counts and discards it
)

// Flags of a data frame.
const flagUnchecked = 1 // the payload was never in user space: no digest

// ErrBadCount is the error if a stream returns a count of bytes that is negative or too
// large.
var ErrBadCount = errors.New("impossible count of bytes")

// ChunkHead describes a chunk: the header of a data frame.
type ChunkHead struct {
	Device    uint16   // index of the device in HELLO
	Codec     codec.ID // how the payload is encoded on the wire
	Unchecked bool     // spliced: the bytes were never in user space, and Digest is 0
	Padding   bool     // not a chunk: WireLen bytes without meaning follow, all other fields are 0
	RawLen    uint32   // bytes of the stream
	WireLen   uint32   // bytes of payload that follow the header
	Seq       uint64   // number of the chunk in its device's stream, from 0
	Offset    uint64   // byte offset of the chunk in its device's stream
	Digest    uint64   // xxhash64 of Device, RawLen, Seq, Offset and the raw bytes
}

// encode writes the header into b, which has chunkHeadLen bytes.
func (h *ChunkHead) encode(b []byte) {
	b[0] = frameChunk
	b[1] = byte(h.Codec)
	binary.BigEndian.PutUint16(b[2:], h.Device)
	binary.BigEndian.PutUint32(b[4:], h.RawLen)
	binary.BigEndian.PutUint32(b[8:], h.WireLen)
	binary.BigEndian.PutUint64(b[16:], h.Seq)
	binary.BigEndian.PutUint64(b[24:], h.Offset)
	binary.BigEndian.PutUint64(b[32:], h.Digest)
	if h.Unchecked {
		b[0] |= flagUnchecked << 4
	}
	if h.Padding {
		b[0] = framePadding
	}
	binary.BigEndian.PutUint32(b[12:], headSum(b))
}

// headSum returns the checksum of a header without the checksum's four bytes.
func headSum(b []byte) uint32 {
	return crc32c.Sum(b[:12], b[16:chunkHeadLen])
}

// ParseChunkHead parses a header. It checks type, flags and checksum, and compares the
// lengths with the protocol's limits.
func ParseChunkHead(b []byte) (ChunkHead, error) {
	if len(b) < chunkHeadLen {
		return ChunkHead{}, fmt.Errorf("%w: chunk header of %d bytes, need %d", transport.ErrProtocol, len(b), chunkHeadLen)
	}
	if got, want := binary.BigEndian.Uint32(b[12:]), headSum(b); got != want {
		return ChunkHead{}, fmt.Errorf("%w: chunk header checksum %#08x, computed %#08x", transport.ErrCorrupt, got, want)
	}
	h := ChunkHead{
		Device:    binary.BigEndian.Uint16(b[2:]),
		Codec:     codec.ID(b[1]),
		Unchecked: b[0]>>4 == flagUnchecked,
		RawLen:    binary.BigEndian.Uint32(b[4:]),
		WireLen:   binary.BigEndian.Uint32(b[8:]),
		Seq:       binary.BigEndian.Uint64(b[16:]),
		Offset:    binary.BigEndian.Uint64(b[24:]),
		Digest:    binary.BigEndian.Uint64(b[32:]),
	}
	if b[0] == framePadding {
		h.Padding = true
		if err := h.checkPadding(); err != nil {
			return ChunkHead{}, err
		}
		return h, nil
	}
	if b[0]&0x0f != frameChunk || b[0]>>4 > flagUnchecked {
		return ChunkHead{}, fmt.Errorf("%w: data frame type %#02x is unknown", transport.ErrProtocol, b[0])
	}
	if err := h.check(); err != nil {
		return ChunkHead{}, err
	}
	return h, nil
}

func (h *ChunkHead) check() error {
	switch {
	case h.RawLen == 0 || h.RawLen > MaxChunk:
		return fmt.Errorf("%w: chunk of %d bytes, limit %d", transport.ErrProtocol, h.RawLen, MaxChunk)
	case h.Offset > MaxStream-uint64(h.RawLen):
		return fmt.Errorf("%w: chunk at offset %d, limit %d", transport.ErrProtocol, h.Offset, uint64(MaxStream))
	case h.Codec == codec.IDRaw && h.WireLen != h.RawLen:
		return fmt.Errorf("%w: raw chunk of %d bytes with %d on the wire", transport.ErrProtocol, h.RawLen, h.WireLen)
	case h.Codec == codec.IDZero && h.WireLen != 0:
		return fmt.Errorf("%w: zero chunk with %d bytes on the wire", transport.ErrProtocol, h.WireLen)
	case h.Codec != codec.IDRaw && h.WireLen >= h.RawLen:
		return fmt.Errorf("%w: chunk of %d bytes encoded by %v to %d", transport.ErrProtocol, h.RawLen, h.Codec, h.WireLen)
	case h.Unchecked && (h.Codec != codec.IDRaw || h.Digest != 0):
		return fmt.Errorf("%w: unchecked chunk with codec %v and digest %#x", transport.ErrProtocol, h.Codec, h.Digest)
	}
	return nil
}

func (h *ChunkHead) checkPadding() error {
	if h.WireLen == 0 || h.WireLen > MaxChunk || *h != (ChunkHead{Padding: true, WireLen: h.WireLen}) {
		return fmt.Errorf("%w: padding of %d bytes, limit %d, with the fields of a chunk: %+v", transport.ErrProtocol, h.WireLen, MaxChunk, *h)
	}
	return nil
}

// digest returns the digest of the raw bytes and their place in the stream.
func (h *ChunkHead) digest(raw []byte) uint64 {
	s := h.sum()
	s.Add(raw)
	return s.Digest()
}

// sum returns the Sum before any raw bytes were added.
func (h *ChunkHead) sum() codec.Sum {
	var place [22]byte
	binary.BigEndian.PutUint16(place[0:], h.Device)
	binary.BigEndian.PutUint32(place[2:], h.RawLen)
	binary.BigEndian.PutUint64(place[6:], h.Seq)
	binary.BigEndian.PutUint64(place[14:], h.Offset)
	return codec.NewSum(place[:])
}

// Chunk is a piece of a device's stream in a buffer of an arena. It has one owner,
// which must release it. Only the methods access its bytes, so that no caller retains a
// slice of memory that has another owner.
type Chunk struct {
	ChunkHead
	arena *Arena
	buf   []byte // chunkHeadLen bytes of header, then the payload
	free  bool

	pipe    *kernelPipe // for a spliced chunk, until it is released
	arrival *Arrival    // for a payload that is still in its lane
}

func (c *Chunk) reset() *Chunk {
	c.free = false
	c.ChunkHead = ChunkHead{}
	return c
}

// Release returns the chunk to its arena. It panics if the chunk was released already.
func (c *Chunk) Release() {
	if c.free {
		panic("transport: chunk released twice")
	}
	c.releaseResources()
	c.free = true
	c.arena.put(c)
}

// zeros has the bytes of every zero chunk. It is never written, so it uses address
// space but no memory.
var zeros [MaxChunk]byte

// raw returns the stream's bytes of a chunk that is not encoded.
func (c *Chunk) raw() []byte {
	if c.Codec == codec.IDZero {
		return zeros[:c.RawLen]
	}
	return c.buf[chunkHeadLen:][:c.RawLen]
}

// Zero reports whether the bytes are all zero and were sent as a marker.
func (c *Chunk) Zero() bool { return c.Codec == codec.IDZero }

// ReadRaw reads once from r into an empty chunk, at most limit bytes. It returns the
// result of r.
func (c *Chunk) ReadRaw(r io.Reader, limit int) (int, error) {
	limit = min(limit, c.arena.chunkSize)
	n, err := r.Read(c.buf[chunkHeadLen:][:limit:limit])
	if n, err = checkCount(n, limit, err); n > 0 {
		c.RawLen, c.WireLen = uint32(n), uint32(n)
	}
	return n, err
}

// HoleSource is a stream that may know that its next bytes are zeros.
type HoleSource interface {
	SkipHole(n int) (int, error)
}

// ReadHole is ReadRaw for zeros that s knows. It does not read them from s, and the chunk is sent
// as a marker. It returns 0 if s knows none.
func (c *Chunk) ReadHole(s HoleSource, limit int) (int, error) {
	limit = min(limit, c.arena.chunkSize)
	n, err := s.SkipHole(limit)
	if n, err = checkCount(n, limit, err); n > 0 {
		c.RawLen, c.Codec = uint32(n), codec.IDZero
	}
	return n, err
}

// checkCount refuses a count that is negative or exceeds the bytes that the call could move.
func checkCount(n, most int, err error) (int, error) {
	if n < 0 || n > most {
		return 0, fmt.Errorf("%w: %d of at most %d", ErrBadCount, n, most)
	}
	return n, err
}

// Seal sets the place of the chunk in a device's stream, and computes its digest.
func (c *Chunk) Seal(device uint16, seq, offset uint64) {
	c.Device, c.Seq, c.Offset = device, seq, offset
	if !c.Unchecked {
		c.Digest = c.digest(c.raw())
	}
}

// EncodeTo encodes a sealed chunk as the policy chooses. It returns the chunk to send
// and the choice. That chunk is spare, with the encoded bytes, or c itself if the bytes
// are sent raw. Both chunks keep their owner.
func (c *Chunk) EncodeTo(spare *Chunk, policy codec.Policy) (*Chunk, codec.Choice) {
	switch {
	case c.Unchecked:
		return c, codec.Choice{Codec: codec.Raw, Device: int(c.Device)}
	case c.Zero():
		return c, codec.Choice{Codec: codec.Zero, Device: int(c.Device)}
	}
	choice, id, enc := codec.EncodeChunk(policy, int(c.Device), spare.buf[chunkHeadLen:chunkHeadLen], c.raw())
	if id == codec.IDRaw {
		return c, choice
	}
	spare.ChunkHead = c.ChunkHead
	spare.Codec, spare.WireLen = id, uint32(len(enc))
	return spare, choice
}

// WriteFrame writes the header and the payload with one Write. It splices the payload
// of a spliced chunk.
func (c *Chunk) WriteFrame(w io.Writer) error {
	c.encode(c.buf)
	if c.Unchecked {
		if _, err := w.Write(c.buf[:chunkHeadLen]); err != nil {
			return err
		}
		return c.spliceOut(w)
	}
	_, err := w.Write(c.buf[:chunkHeadLen+int(c.WireLen)])
	return err
}

// ReadChunkHead reads the header of the next data frame. It returns io.EOF if the lane
// ends between two frames.
func ReadChunkHead(r io.Reader, room *[chunkHeadLen]byte) (ChunkHead, error) {
	if _, err := io.ReadFull(r, room[:]); err != nil {
		return ChunkHead{}, err
	}
	return ParseChunkHead(room[:])
}

// HeadRoom is memory for ReadChunkHead.
type HeadRoom = [chunkHeadLen]byte

// ReadPayload reads the payload that follows head into the chunk, decodes it and
// checks the digest. It reads raw bytes directly into the chunk, and encoded bytes
// into scratch.
func (c *Chunk) ReadPayload(r io.Reader, head ChunkHead, scratch *Chunk) error {
	if int(head.RawLen) > c.arena.chunkSize {
		return fmt.Errorf("%w: chunk of %d bytes, negotiated %d", transport.ErrProtocol, head.RawLen, c.arena.chunkSize)
	}
	c.ChunkHead = head
	got, err := c.readWire(r, scratch)
	if err == nil && !c.Unchecked && got != c.Digest {
		err = fmt.Errorf("%w: chunk %d at offset %d has digest %#016x, its header has %#016x",
			transport.ErrCorrupt, c.Seq, c.Offset, got, c.Digest)
	}
	return err
}

// readWire reads the payload. It returns the digest of the raw bytes.
func (c *Chunk) readWire(r io.Reader, scratch *Chunk) (uint64, error) {
	switch c.Codec {
	case codec.IDRaw:
		return c.readRawPayload(r)
	case codec.IDZero: // no payload: raw returns zeros
	default:
		if err := c.readEncodedPayload(r, scratch); err != nil {
			return 0, err
		}
	}
	failpoint.Spoil("destination.decoded", c.raw())
	return c.digest(c.raw()), nil
}

// sumPiece is how many bytes are read before their digest is computed. They fit the
// processor's nearest caches, which a whole chunk does not.
const sumPiece = 64 << 10

func (c *Chunk) readRawPayload(r io.Reader) (uint64, error) {
	sum := c.sum()
	for left := c.raw(); len(left) > 0; {
		n, err := io.ReadAtLeast(r, left[:min(len(left), sumPiece)], 1)
		if err != nil {
			return 0, noEOF(err)
		}
		failpoint.Spoil("destination.decoded", left[:n])
		sum.Add(left[:n])
		left = left[n:]
	}
	return sum.Digest(), nil
}

func (c *Chunk) readEncodedPayload(r io.Reader, scratch *Chunk) error {
	cd, err := codec.ByID(c.Codec)
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrProtocol, err)
	}
	wire := scratch.buf[chunkHeadLen:][:c.WireLen]
	if _, err := io.ReadFull(r, wire); err != nil {
		return noEOF(err)
	}
	if err := cd.Decode(c.raw(), wire); err != nil {
		return fmt.Errorf("%w: chunk %d at offset %d: %w", transport.ErrCorrupt, c.Seq, c.Offset, err)
	}
	return nil
}

// noEOF turns the end of a lane inside a frame into an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// WriteRaw writes the chunk's bytes to w with one Write. It moves a payload that is
// still in its lane to w.
func (c *Chunk) WriteRaw(w io.Writer) error {
	if c.arrival != nil {
		return c.forward(w)
	}
	return writeAll(w, c.raw())
}

// writeAll writes p with one Write. A short write without an error is io.ErrShortWrite.
func writeAll(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	if n, err = checkCount(n, len(p), err); err == nil && n < len(p) {
		err = fmt.Errorf("%w: %d of %d bytes", io.ErrShortWrite, n, len(p))
	}
	return err
}

// Digest computes the digest of a whole stream without a second pass over its bytes:
// SHA-256 over the ordered list of (offset, length, chunk digest).
type Digest struct {
	sum    hash.Hash
	record [20]byte // of the last chunk; a field, so that Add allocates nothing
	chunks uint64
	bytes  uint64
}

// NewDigest starts the digest of a stream.
func NewDigest() *Digest { return &Digest{sum: sha256.New()} }

// Add adds the next chunk of the stream.
func (d *Digest) Add(h ChunkHead) {
	rec := d.record[:]
	binary.BigEndian.PutUint64(rec[0:], h.Offset)
	binary.BigEndian.PutUint32(rec[8:], h.RawLen)
	binary.BigEndian.PutUint64(rec[12:], h.Digest)
	d.sum.Write(rec)
	d.chunks++
	d.bytes += uint64(h.RawLen)
}

// Bytes returns the length of the stream so far.
func (d *Digest) Bytes() uint64 { return d.bytes }

// Chunks returns the number of chunks so far.
func (d *Digest) Chunks() uint64 { return d.chunks }

// Sum returns the digest of the chunks that were added so far.
func (d *Digest) Sum() migration.StreamDigest { return migration.StreamDigest(d.sum.Sum(nil)) }

// Padding opens the congestion windows of the lanes before a switchover, and measures
// their throughput. It belongs to no stream.

// Noise fills the chunk's buffer with bytes that cannot be compressed, for
// WritePadding.
func (c *Chunk) Noise() { rand.Read(c.buf) }

// WritePadding writes one frame of n bytes of padding, at most the arena's chunk size.
// The bytes are the content of the buffer.
func (c *Chunk) WritePadding(w io.Writer, n int) error {
	h := ChunkHead{Padding: true, WireLen: uint32(n)}
	h.encode(c.buf)
	_, err := w.Write(c.buf[:chunkHeadLen+n])
	return err
}

// Discard reads the payload of a frame of padding into the chunk's buffer.
func (c *Chunk) Discard(r io.Reader, head ChunkHead) error {
	if int(head.WireLen) > c.arena.chunkSize {
		return fmt.Errorf("%w: padding of %d bytes, negotiated %d", transport.ErrProtocol, head.WireLen, c.arena.chunkSize)
	}
	_, err := io.ReadFull(r, c.buf[:head.WireLen])
	return noEOF(err)
}
