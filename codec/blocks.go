package codec

import (
	"bytes"
	"runtime"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/migpipe/migpipe/internal/must"
)

// Raw leaves a block as it is. Its methods copy, so that it behaves as every
// other codec does; EncodeChunk sends a raw chunk from where it lies.
var Raw Codec = rawCodec{}

type rawCodec struct{}

func (rawCodec) ID() ID { return IDRaw }

func (rawCodec) Encode(dst, src []byte) []byte { return append(dst[:0], src...) }

func (rawCodec) Decode(dst, src []byte) error {
	if len(src) != len(dst) {
		return corrupt(IDRaw, dst, src, nil)
	}
	copy(dst, src)
	return nil
}

func rawLimit(n int) int { return n }

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

const (
	// zstdWindow is how far back the encoder looks, and most of what it holds
	// in memory. Four times as much gained nothing measurable on 1 MiB blocks.
	zstdWindow = 1 << 20
	// zstdCoders bounds the encoders, and the decoders, of the process. A call
	// beyond that waits for one to come free, which costs nothing as long as
	// every core is busy with another.
	zstdCoders = 8
)

// Zstd encodes a block as one zstd frame at the library's fastest level: the
// codec for a slow link. The frame names its content size and carries no
// checksum, since chunks have a digest. An encoder holds about 1.8 MiB and
// a decoder 0.2 MiB, from first use on; there are min(GOMAXPROCS, 8) of each.
var Zstd Codec = zstdCodec{}

type zstdCodec struct{}

func (zstdCodec) ID() ID { return IDZstd }

func (zstdCodec) Encode(dst, src []byte) []byte {
	return settle(dst, zstdEncoder().EncodeAll(src, dst[:0]))
}

// Decode compares the content size that src names before anything is decoded.
// A frame whose blocks hold more than they may costs the library one block, at
// most 128 KiB, before it is refused.
func (zstdCodec) Decode(dst, src []byte) error {
	var h zstd.Header
	err := h.Decode(src)
	if err != nil || !h.HasFCS || h.FrameContentSize != uint64(len(dst)) || h.DictionaryID != 0 {
		return corrupt(IDZstd, dst, src, err)
	}
	out, err := zstdDecoder().DecodeAll(src, dst[:0:len(dst)])
	if err != nil || len(out) != len(dst) {
		return corrupt(IDZstd, dst, src, err)
	}
	return nil
}

func zstdLimit(n int) int { return zstdEncoder().MaxEncodedSize(n) }

// settle returns out in dst's memory where it fits. The library tries a block
// before it falls back to storing it, and such a try can outgrow dst and move.
func settle(dst, out []byte) []byte {
	if len(out) == 0 || len(out) > cap(dst) || &out[0] == &dst[:1][0] {
		return out
	}
	return append(dst[:0], out...)
}

// The library's EncodeAll and DecodeAll start no goroutines: concurrency is
// only how many coders it keeps.
var (
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		return must.Get(zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(min(runtime.GOMAXPROCS(0), zstdCoders)),
			zstd.WithWindowSize(zstdWindow),
			zstd.WithLowerEncoderMem(true),
			zstd.WithSingleSegment(true), // and so the content size is named
			zstd.WithZeroFrames(true),    // an empty block is a frame, too
			zstd.WithEncoderCRC(false)))
	})
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		return must.Get(zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(min(runtime.GOMAXPROCS(0), zstdCoders)),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(MaxBlock),
			zstd.WithDecoderMaxWindow(MaxBlock),
			zstd.WithDecodeAllCapLimit(true)))
	})
)
