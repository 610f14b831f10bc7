package codec

import "github.com/klauspost/compress/s2"

// S2 encodes a block as one S2 block: the codec that keeps up with a fast link.
// A call borrows a table of at most 64 KiB from a pool.
var S2 Codec = s2Codec{}

type s2Codec struct{}

func (s2Codec) ID() ID { return IDS2 }

func (s2Codec) Encode(dst, src []byte) []byte { return s2.Encode(dst, src) }

// Decode compares the length that src names before anything is decoded: the
// library would make room for it, up to 4 GiB.
func (s2Codec) Decode(dst, src []byte) error {
	n, err := s2.DecodedLen(src)
	if err != nil || n != len(dst) {
		return corrupt(IDS2, dst, src, err)
	}
	if _, err := s2.Decode(dst[:n:n], src); err != nil {
		return corrupt(IDS2, dst, src, err)
	}
	return nil
}

func s2Limit(n int) int { return s2.MaxEncodedLen(n) }
