package codec_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

// decode calls Decode with a guarded dst of n bytes. It checks the rules for any
// input: no panic, no write outside dst or to src, and an error of type ErrCorrupt.
func decode(t testing.TB, c codec.Codec, n int, src []byte) ([]byte, error) {
	t.Helper()
	kept := bytes.Clone(src)
	dst := newGuarded(n)
	err := c.Decode(dst.inner(), src)
	if guard := dst.intact(); guard != nil {
		t.Fatalf("%v: %v", c.ID(), guard)
	}
	if !bytes.Equal(src, kept) {
		t.Fatalf("%v: Decode changed src", c.ID())
	}
	if err != nil && !errors.Is(err, codec.ErrCorrupt) {
		t.Fatalf("%v: the error does not wrap ErrCorrupt: %v", c.ID(), err)
	}
	return dst.inner(), err
}

func refuse(t *testing.T, what string, c codec.Codec, n int, src []byte) {
	t.Helper()
	if _, err := decode(t, c, n, src); err == nil {
		t.Errorf("%v: %s was accepted", c.ID(), what)
	}
}

func TestErrorNamesCodecAndLengths(t *testing.T) {
	for _, c := range codec.All() {
		_, err := decode(t, c, 4099, make([]byte, 7))
		want := "codec: " + c.ID().String() + ": corrupt block: 7 bytes do not decode to 4099"
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestWrongLength(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		if c == codec.Zero {
			t.Skip("the encoding has no length")
		}
		enc := c.Encode(nil, corpus.Bytes(4096, 1))
		for _, n := range []int{0, 1, 4095, 4097, codec.MaxBlock} {
			refuse(t, "another length", c, n, enc)
		}
	})
}

func TestTruncated(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		enc := c.Encode(nil, corpus.Bytes(4096, 2))
		for n := range enc {
			refuse(t, "a truncated block", c, 4096, enc[:n])
		}
	})
}

func TestTrailingBytes(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		enc := c.Encode(nil, corpus.Bytes(4096, 3))
		refuse(t, "a byte after the block", c, 4096, append(enc, 0))
		if len(enc) > 0 {
			refuse(t, "a second block", c, 4096, append(enc, enc...))
		}
	})
}

// TestFlipped changes single bits. Some changed blocks decode, since neither format
// has a checksum here. The digest of the chunk detects those.
func TestFlipped(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		enc := c.Encode(nil, corpus.Bytes(20000, 4))
		r := rand.New(rand.NewPCG(1, 2))
		for range min(500, 8*len(enc)) {
			bit := r.IntN(8 * len(enc))
			enc[bit/8] ^= 1 << (bit % 8)
			decode(t, c, 20000, enc)
			enc[bit/8] ^= 1 << (bit % 8)
		}
	})
}

func TestGarbage(t *testing.T) {
	for _, c := range codec.All() {
		for seed := range uint64(500) {
			src := codectest.Corpus{Fill: codectest.Random}.Bytes(int(seed), seed)
			decode(t, c, int(seed)*3, src)
		}
	}
}

// s2Named returns an S2 block with the length n and the literal "abc".
func s2Named(n uint64) []byte {
	return append(binary.AppendUvarint(nil, n), 2<<2, 'a', 'b', 'c')
}

func TestS2LyingLength(t *testing.T) {
	if got, err := decode(t, codec.S2, 3, s2Named(3)); err != nil || string(got) != "abc" {
		t.Fatalf("block with the right length: %q, %v", got, err)
	}
	for _, n := range []uint64{0, 2, 4, 1 << 20, codec.MaxBlock, 1<<32 - 1, 1 << 32, 1<<64 - 1} {
		refuse(t, "a block that names another length", codec.S2, 3, s2Named(n))
	}
}

// frame returns a zstd frame with a 4-byte content size and, unless window is 0, a
// window descriptor, followed by blocks.
func frame(window byte, size uint32, blocks ...[]byte) []byte {
	f := []byte{0x28, 0xb5, 0x2f, 0xfd, 0b10_1_00000}
	if window != 0 {
		f = []byte{0x28, 0xb5, 0x2f, 0xfd, 0b10_0_00000, window}
	}
	f = binary.LittleEndian.AppendUint32(f, size)
	return append(f, bytes.Join(blocks, nil)...)
}

// rle returns a zstd block that repeats one byte n times.
func rle(n int, last bool) []byte {
	head := uint32(n)<<3 | 1<<1
	if last {
		head |= 1
	}
	return []byte{byte(head), byte(head >> 8), byte(head >> 16), 'x'}
}

func TestZstdHandmade(t *testing.T) {
	want := strings.Repeat("x", 4096)
	for name, f := range map[string][]byte{
		"single segment": frame(0, 4096, rle(4096, true)),
		"window 4 MiB":   frame(12<<3, 4096, rle(4096, true)),
		"two blocks":     frame(0, 4096, rle(4000, false), rle(96, true)),
	} {
		if got, err := decode(t, codec.Zstd, 4096, f); err != nil || string(got) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestZstdBombs(t *testing.T) {
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}
	honest := frame(0, 4096, rle(4096, true))
	unsized := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 12 << 3}, rle(4096, true)...)
	dictionary := bytes.Clone(honest)
	dictionary[4] |= 1
	dictionary = append(dictionary[:5:5], append([]byte{7}, honest[5:]...)...)
	many := bytes.Repeat(rle(128<<10, false), 1000)
	for name, f := range map[string][]byte{
		"a size of 4 GiB":             frame(0, 1<<32-1, rle(4096, true)),
		"more than it names":          frame(0, 4096, rle(4097, true)),
		"less than it names":          frame(0, 4096, rle(4095, true)),
		"125 MiB under a small size":  frame(0, 4096, many, rle(1, true)),
		"125 MiB under a window":      frame(12<<3, 4096, many, rle(1, true)),
		"a block over the limit":      frame(0, 4096, rle(1<<21-1, true)),
		"no size":                     unsized,
		"a dictionary":                dictionary,
		"a skippable frame before it": append(skippable, honest...),
		"a frame after it":            append(bytes.Clone(honest), honest...),
		"no last block":               frame(0, 4096, rle(4096, false)),
		"nothing":                     nil,
	} {
		refuse(t, name, codec.Zstd, 4096, f)
	}
}

func TestZstdGiantWindow(t *testing.T) {
	for _, window := range []byte{12<<3 | 1, 13 << 3, 0xff} {
		_, err := decode(t, codec.Zstd, 4096, frame(window, 4096, rle(4096, true)))
		if !errors.Is(err, zstd.ErrWindowSizeExceeded) {
			t.Errorf("window descriptor %#x: %v", window, err)
		}
	}
}

func TestZstdOverMaxBlock(t *testing.T) {
	src := make([]byte, codec.MaxBlock+1)
	refuse(t, "a block over MaxBlock", codec.Zstd, len(src), codec.Zstd.Encode(nil, src))
}

// TestHostileMemory decodes inputs that claim gigabytes. Each may allocate at most
// one block of zstd on average, including its error.
func TestHostileMemory(t *testing.T) {
	bombs := map[codec.Codec][][]byte{
		codec.S2:   {s2Named(1<<32 - 1), s2Named(codec.MaxBlock)},
		codec.Zstd: {frame(0, 1<<32-1, rle(9, true)), frame(0xff, 64, rle(64, true)), frame(12<<3, 64, rle(128<<10, false))},
	}
	dst := make([]byte, 64)
	for c, inputs := range bombs {
		for _, src := range inputs {
			c.Decode(dst, src) // allocates the coders' memory
			if got := allocated(func() { c.Decode(dst, src) }, 100) / 100; got > 160<<10 {
				t.Errorf("%v: %d bytes allocated for %x", c.ID(), got, src)
			}
		}
	}
}

func allocated(f func(), times int) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		f()
	}
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
