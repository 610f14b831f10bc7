package codec_test

import (
	"bytes"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

// fuzzMax is the longest input. It keeps a run short, and exceeds one block of zstd.
const fuzzMax = 256 << 10

// FuzzDecode decodes arbitrary input with every codec. The result must be that of the
// library's streaming reader.
func FuzzDecode(f *testing.F) {
	for _, corpus := range codectest.Corpora() {
		for _, c := range codec.All() {
			f.Add(uint8(c.ID()), uint32(300), c.Encode(nil, corpus.Bytes(300, 1)))
		}
	}
	f.Add(uint8(codec.IDS2), uint32(3), s2Named(1<<32-1))
	f.Add(uint8(codec.IDZstd), uint32(4096), frame(0xff, 4096, rle(4096, true)))
	f.Add(uint8(codec.IDZstd), uint32(4096), frame(0, 4096, rle(4000, false), rle(96, true)))
	f.Fuzz(func(t *testing.T, id uint8, n uint32, src []byte) {
		c, err := codec.ByID(codec.ID(id))
		if err != nil || n > fuzzMax {
			t.Skip()
		}
		raw, err := decode(t, c, int(n), src)
		if err != nil || n == 0 || c == codec.Raw || c == codec.Zero {
			return
		}
		if got, err := streamed(c.ID(), src, raw); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%v: the streaming reader's result differs: %v", c.ID(), err)
		}
	})
}

// FuzzRoundTrip encodes arbitrary bytes, repeated for longer blocks, with every codec
// and policy.
func FuzzRoundTrip(f *testing.F) {
	for _, corpus := range codectest.Corpora() {
		for _, n := range []int{0, 1, 60, 96, 4097} {
			f.Add(corpus.Bytes(n, 1), uint8(n))
		}
	}
	f.Fuzz(func(t *testing.T, seed []byte, times uint8) {
		src := bytes.Repeat(seed, 1+int(times))
		if len(src) > fuzzMax {
			t.Skip()
		}
		for _, c := range []codec.Codec{codec.Raw, codec.S2, codec.Zstd} {
			if err := roundTrip(c, src); err != nil {
				t.Fatalf("%v: %v", c.ID(), err)
			}
		}
		for name, p := range policies {
			if _, err := chunkRoundTrip(p, src); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}
