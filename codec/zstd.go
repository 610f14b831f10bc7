package codec

import (
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/migpipe/migpipe/internal/must"
)

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
