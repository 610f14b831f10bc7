package codec

import "github.com/cespare/xxhash/v2"

// Sum is the digest of a chunk: the xxhash64 of its header, then of its raw bytes, as
// if they lay in one piece. They may come in several.
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
