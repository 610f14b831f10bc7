package codec

import "bytes"

// Zero stands for a block of zeros with no bytes at all. Encode trusts its
// caller that src holds nothing else: EncodeChunk has looked.
var Zero Codec = zeroCodec{}

type zeroCodec struct{}

func (zeroCodec) ID() ID { return IDZero }

func (zeroCodec) Encode(dst, _ []byte) []byte { return dst[:0] }

func (zeroCodec) Decode(dst, src []byte) error {
	if len(src) != 0 {
		return corrupt(IDZero, dst, src, nil)
	}
	clear(dst)
	return nil
}

func zeroLimit(int) int { return 0 }

// zeroPage stays in the first-level cache while a block is compared with it.
var zeroPage [4096]byte

// isZero reports whether b holds zeros only. It stops within a page of the
// first byte that is not zero, so that it costs nothing on other data.
func isZero(b []byte) bool {
	for len(b) > len(zeroPage) {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
		b = b[len(zeroPage):]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
