package codec

import (
	"bytes"
	"runtime"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/migpipe/migpipe/internal/must"
)

// Raw does not change a block. Its methods copy, as those of every codec do.
// EncodeChunk returns a raw chunk without a copy.
var Raw Codec = rawCodec{}

type rawCodec struct{}

func (rawCodec) ID() ID { return IDRaw }

func (rawCodec) Encode(dst, src []byte) []byte { return append(dst[:0], src...) }

func (rawCodec) Decode(dst, src []byte) error {
	if len(src) != len(dst) {
		return corruptError(IDRaw, dst, src, nil)
	}
	copy(dst, src)
	return nil
}

func rawLimit(n int) int { return n }

// Zero encodes a block of zeros as no bytes. Encode does not check that all bytes
// of src are zero: EncodeChunk has done so.
var Zero Codec = zeroCodec{}

type zeroCodec struct{}

func (zeroCodec) ID() ID { return IDZero }

func (zeroCodec) Encode(dst, _ []byte) []byte { return dst[:0] }

func (zeroCodec) Decode(dst, src []byte) error {
	if len(src) != 0 {
		return corruptError(IDZero, dst, src, nil)
	}
	clear(dst)
	return nil
}

func zeroLimit(int) int { return 0 }

// zeroPage stays in the first-level cache while a block is compared with it.
var zeroPage [4096]byte

// isZero reports whether b holds zeros only. It stops within a page of the first
// non-zero byte, so that it is cheap for other data.
func isZero(b []byte) bool {
	for len(b) > len(zeroPage) {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
		b = b[len(zeroPage):]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}

// S2 encodes a block as one S2 block. It is the codec for a fast link. A call uses
// a table of at most 64 KiB from a pool.
var S2 Codec = s2Codec{}

type s2Codec struct{}

func (s2Codec) ID() ID { return IDS2 }

func (s2Codec) Encode(dst, src []byte) []byte { return s2.Encode(dst, src) }

// Decode compares the length in src with len(dst) first, since the library would
// allocate that length, up to 4 GiB.
func (s2Codec) Decode(dst, src []byte) error {
	n, err := s2.DecodedLen(src)
	if err != nil || n != len(dst) {
		return corruptError(IDS2, dst, src, err)
	}
	if _, err := s2.Decode(dst[:n:n], src); err != nil {
		return corruptError(IDS2, dst, src, err)
	}
	return nil
}

func s2Limit(n int) int { return s2.MaxEncodedLen(n) }

const (
	// zstdWindow is the encoder's window, and most of its memory. A window four
	// times as large had no measurable gain on 1 MiB blocks.
	zstdWindow = 1 << 20
	// zstdCoders bounds the encoders, and the decoders, of the process. Further
	// calls wait for a free one. The wait costs nothing while all cores are busy.
	zstdCoders = 8
)

// Zstd encodes a block as one zstd frame at the library's fastest level. It is the
// codec for a slow link. The frame has its content size but no checksum, since
// chunks have a digest. From its first use on, an encoder has about 1.8 MiB and a
// decoder 0.2 MiB of memory. There are min(GOMAXPROCS, 8) of each.
var Zstd Codec = zstdCodec{}

type zstdCodec struct{}

func (zstdCodec) ID() ID { return IDZstd }

func (zstdCodec) Encode(dst, src []byte) []byte {
	return moveInto(dst, zstdEncoder().EncodeAll(src, dst[:0]))
}

// Decode compares the content size in src with len(dst) first. If the blocks of a
// frame exceed its content size, the library decodes at most one block of 128 KiB
// too many.
func (zstdCodec) Decode(dst, src []byte) error {
	var h zstd.Header
	err := h.Decode(src)
	if err != nil || !h.HasFCS || h.FrameContentSize != uint64(len(dst)) || h.DictionaryID != 0 {
		return corruptError(IDZstd, dst, src, err)
	}
	out, err := zstdDecoder().DecodeAll(src, dst[:0:len(dst)])
	if err != nil || len(out) != len(dst) {
		return corruptError(IDZstd, dst, src, err)
	}
	return nil
}

func zstdLimit(n int) int { return zstdEncoder().MaxEncodedSize(n) }

// moveInto returns out in dst's memory if it fits. The library compresses a block
// before it decides to store it raw, and the compressed block can outgrow dst, so
// that the library moves it to other memory.
func moveInto(dst, out []byte) []byte {
	if len(out) == 0 || len(out) > cap(dst) || &out[0] == &dst[:1][0] {
		return out
	}
	return append(dst[:0], out...)
}

// The library's EncodeAll and DecodeAll start no goroutines. The concurrency is the
// number of coders.
var (
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		return must.Get(zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(min(runtime.GOMAXPROCS(0), zstdCoders)),
			zstd.WithWindowSize(zstdWindow),
			zstd.WithLowerEncoderMem(true),
			zstd.WithSingleSegment(true), // adds the content size
			zstd.WithZeroFrames(true),    // encodes an empty block as a frame
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
