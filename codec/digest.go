package codec

import "github.com/cespare/xxhash/v2"

// Digest returns the xxhash64 of a chunk: of its header, then of its raw bytes,
// as if they lay in one piece.
func Digest(header, raw []byte) uint64 {
	s := NewSum(header)
	s.Add(raw)
	return s.Digest()
}

// Sum is [Digest] for bytes that come in pieces.
type Sum struct{ xx xxhash.Digest }

// NewSum begins with a chunk's header.
func NewSum(header []byte) (s Sum) {
	s.xx.Reset()
	s.xx.Write(header)
	return s
}

// Add adds the next raw bytes.
func (s *Sum) Add(raw []byte) { s.xx.Write(raw) }

// Digest is that of what was added so far.
func (s *Sum) Digest() uint64 { return s.xx.Sum64() }
