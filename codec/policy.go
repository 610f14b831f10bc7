package codec

import "github.com/klauspost/compress/s2"

// minGain is the part of a chunk, one in so many bytes, that an encoding has to
// save. Below it the receiver's work costs more than the wire gains.
const minGain = 8

// Policy chooses the codec of one chunk, which it may read but not keep. It
// never sees a chunk of zeros: EncodeChunk has marked that already. Zero, which
// a Policy has no business to choose, counts as Raw.
type Policy func(src []byte) Codec

// Fixed always chooses c.
func Fixed(c Codec) Policy {
	return func([]byte) Codec { return c }
}

// Auto chooses S2 for a chunk whose samples S2 shrinks, and Raw otherwise. It
// does not know the link: where that is faster than a core encodes with S2,
// Fixed(Raw) wins.
func Auto(src []byte) Codec {
	sampled, shrunk := probe(src)
	if worthwhile(shrunk, sampled) {
		return S2
	}
	return Raw
}

// EncodeChunk encodes src as p chooses and returns what to send:
//   - zeros, whatever p would say: IDZero and nil. Looking for them is nearly
//     free, and a marker is faster on both sides than any codec;
//   - a codec's choice that pays: its ID and the encoding, in dst's memory;
//   - anything else: IDRaw and src itself, not copied.
//
// dst must not overlap src and needs a capacity of MaxEncodedLen(len(src)).
func EncodeChunk(p Policy, dst, src []byte) (ID, []byte) {
	if isZero(src) {
		return IDZero, nil
	}
	c := p(src)
	if id := c.ID(); id == IDRaw || id == IDZero {
		return IDRaw, src
	}
	enc := c.Encode(dst, src)
	if !worthwhile(len(enc), len(src)) {
		return IDRaw, src
	}
	return c.ID(), enc
}

// worthwhile reports whether an encoding of that length saves enough.
func worthwhile(encoded, raw int) bool { return encoded <= raw-raw/minGain-1 }

const (
	probes    = 8
	probeSize = 4096
)

// probe estimates what S2 makes of src from a few pages spread over it: their
// length, and their length encoded. A short src is estimated as a whole.
func probe(src []byte) (sampled, shrunk int) {
	if len(src) <= probes*probeSize {
		return len(src), estimate(src)
	}
	stride := len(src) / probes
	for at := 0; at+stride <= len(src); at += stride {
		shrunk += estimate(src[at : at+probeSize])
	}
	return probes * probeSize, shrunk
}

func estimate(src []byte) int {
	if n := s2.EstimateBlockSize(src); n >= 0 {
		return n
	}
	return len(src)
}
