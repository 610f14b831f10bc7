// Package codec encodes and decodes the chunks of a device's stream. It has
// stateless block codecs, the digest of a chunk, and the choice of a codec for
// each chunk.
package codec

import (
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// MaxBlock is the length of the largest block, in raw bytes, that a codec encodes.
const MaxBlock = 4 << 20

// ErrCorrupt is wrapped by every error of Decode. A caller need not distinguish a
// block that fails to decode from a block that decodes to another length.
var ErrCorrupt = errors.New("corrupt block")

// ErrUnknown is wrapped by the errors of ByID and ByName.
var ErrUnknown = errors.New("unknown codec")

// ID names a codec on the wire. An ID is never reused for another codec.
type ID uint8

// The codecs of protocol version 1.
const (
	IDRaw  ID = 0 // the raw bytes
	IDZero ID = 1 // all bytes are zero; the encoding is empty
	IDS2   ID = 2 // one S2 block
	IDZstd ID = 3 // one zstd frame
)

// Codec encodes and decodes single blocks of at most MaxBlock raw bytes. It
// has no state between calls, retains neither argument, and is safe for
// concurrent use. dst and src must not overlap.
type Codec interface {
	ID() ID
	// Encode returns the encoding of src. If cap(dst) >= MaxEncodedLen(len(src)),
	// the result begins at dst's first byte. Otherwise Encode may allocate. It
	// never writes past cap(dst).
	Encode(dst, src []byte) []byte
	// Decode decodes src to exactly len(dst) bytes. Otherwise it fails with an
	// error that wraps ErrCorrupt, and dst is undefined. No size in src
	// determines an allocation.
	Decode(dst, src []byte) error
}

// table has a row for each codec, at the index of its ID.
var table = [...]struct {
	name  string
	codec Codec
	limit func(n int) int // the longest encoding of n bytes
}{
	IDRaw:  {"raw", Raw, rawLimit},
	IDZero: {"zero", Zero, zeroLimit},
	IDS2:   {"s2", S2, s2Limit},
	IDZstd: {"zstd", Zstd, zstdLimit},
}

// String returns the codec's name, or the number of an unknown ID.
func (id ID) String() string {
	if int(id) < len(table) {
		return table[id].name
	}
	return fmt.Sprintf("codec(%d)", uint8(id))
}

// All returns every codec, in the order of their IDs.
func All() []Codec {
	all := make([]Codec, len(table))
	for i, row := range table {
		all[i] = row.codec
	}
	return all
}

// ByID returns the codec with this ID.
func ByID(id ID) (Codec, error) {
	if int(id) < len(table) {
		return table[id].codec, nil
	}
	return nil, fmt.Errorf("codec: %w %d", ErrUnknown, uint8(id))
}

// ByName returns the codec with this name, as ID.String returns it.
func ByName(name string) (Codec, error) {
	for _, row := range table {
		if row.name == name {
			return row.codec, nil
		}
	}
	return nil, fmt.Errorf("codec: %w %.32q", ErrUnknown, name)
}

// MaxEncodedLen returns the length of the longest encoding of n <= MaxBlock raw
// bytes by any codec.
func MaxEncodedLen(n int) int {
	longest := n
	for _, row := range table {
		longest = max(longest, row.limit(n))
	}
	return longest
}

// corruptError returns the error for a src that is no encoding of len(dst) bytes.
// cause, which may be nil, is the codec's error.
func corruptError(id ID, dst, src []byte, cause error) error {
	err := fmt.Errorf("codec: %v: %w: %d bytes do not decode to %d", id, ErrCorrupt, len(src), len(dst))
	if cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// Sum computes the digest of a chunk: the xxhash64 of its header followed by its raw
// bytes, which may be added in several pieces.
type Sum struct{ xx xxhash.Digest }

// NewSum returns a Sum to which a chunk's header was added.
func NewSum(header []byte) (s Sum) {
	s.xx.Reset()
	s.xx.Write(header)
	return s
}

// Add adds the next raw bytes.
func (s *Sum) Add(raw []byte) { s.xx.Write(raw) }

// Digest returns the digest of the bytes that were added so far.
func (s *Sum) Digest() uint64 { return s.xx.Sum64() }
