package codec

import "github.com/cespare/xxhash/v2"

// Digest returns the xxhash64 of a chunk: of its header, then of its raw bytes,
// as if they lay in one piece.
func Digest(header, raw []byte) uint64 {
	var d xxhash.Digest // on the stack
	d.Reset()
	d.Write(header)
	d.Write(raw)
	return d.Sum64()
}
