// Package codec turns chunks of a device's stream into what goes over the wire
// and back: stateless block codecs, the digest of a chunk, and the choice of a
// codec for each chunk.
package codec

// ID names a codec on the wire. An ID is never given to another codec.
type ID uint8

// The codecs of protocol version 1.
const (
	IDRaw  ID = 0 // the bytes as they are
	IDZero ID = 1 // all bytes are zero; nothing is sent
	IDS2   ID = 2 // one S2 block
	IDZstd ID = 3 // one zstd frame
)

// Codec encodes and decodes single blocks. It keeps no state between calls and
// is safe for concurrent use.
type Codec interface {
	ID() ID
	// Encode appends the encoded src to dst[:0] and returns it. It never
	// writes past cap(dst) when cap(dst) >= MaxEncodedLen(len(src)).
	Encode(dst, src []byte) []byte
	// Decode fills exactly len(dst) bytes from src, or fails. It allocates
	// nothing by a size that src names.
	Decode(dst, src []byte) error
}
