package codec_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

// lengths are around the limits of the codecs: empty, too short to shrink, one mtty
// record, pages, the blocks inside a frame, and MaxBlock.
var lengths = []int{
	0, 1, 2, 3, 59, 60, 96, 4095, 4096, 4097, 64 << 10, 128 << 10, 128<<10 + 1, 1 << 20, codec.MaxBlock,
}

// below are the lengths under MaxBlock: enough for slow checks.
var below = lengths[:len(lengths)-1]

func TestTable(t *testing.T) {
	want := []struct {
		id    codec.ID
		name  string
		codec codec.Codec
	}{
		{0, "raw", codec.Raw},
		{1, "zero", codec.Zero},
		{2, "s2", codec.S2},
		{3, "zstd", codec.Zstd},
	}
	all := codec.All()
	if len(all) != len(want) {
		t.Fatalf("%d codecs, want %d", len(all), len(want))
	}
	for i, w := range want {
		byID, err1 := codec.ByID(w.id)
		byName, err2 := codec.ByName(w.name)
		if all[i] != w.codec || byID != w.codec || byName != w.codec || err1 != nil || err2 != nil {
			t.Errorf("%s: All %v, ByID %v (%v), ByName %v (%v)", w.name, all[i], byID, err1, byName, err2)
		}
		if w.codec.ID() != w.id || w.id.String() != w.name {
			t.Errorf("%s has the ID %d and the name %v", w.name, w.codec.ID(), w.id)
		}
	}
}

func TestUnknown(t *testing.T) {
	if _, err := codec.ByID(200); !errors.Is(err, codec.ErrUnknown) || err.Error() != "codec: unknown codec 200" {
		t.Errorf("ByID(200): %v", err)
	}
	if _, err := codec.ByName("lz\n4"); !errors.Is(err, codec.ErrUnknown) || err.Error() != `codec: unknown codec "lz\n4"` {
		t.Errorf("ByName: %v", err)
	}
	if got := codec.ID(200).String(); got != "codec(200)" {
		t.Errorf("String() = %q", got)
	}
}

// fits reports whether c can encode the corpus. Zero encodes only zeros.
func fits(c codec.Codec, corpus codectest.Corpus) bool {
	return c != codec.Zero || corpus.Name == "zero"
}

// each runs f for every codec on every corpus that it can encode.
func each(t *testing.T, f func(t *testing.T, c codec.Codec, corpus codectest.Corpus)) {
	for _, c := range codec.All() {
		for _, corpus := range codectest.Corpora() {
			if fits(c, corpus) {
				t.Run(c.ID().String()+"/"+corpus.Name, func(t *testing.T) { f(t, c, corpus) })
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		for _, n := range lengths {
			if err := roundTrip(c, corpus.Bytes(n, uint64(n))); err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	})
}

// TestRoundTripUnaligned encodes blocks at odd addresses.
func TestRoundTripUnaligned(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		block := corpus.Bytes(10000, 1)
		for at := range 64 {
			if err := roundTrip(c, block[at:]); err != nil {
				t.Errorf("from byte %d: %v", at, err)
			}
		}
	})
}

// roundTrip encodes and decodes src, with guards around both results.
func roundTrip(c codec.Codec, src []byte) error {
	kept := bytes.Clone(src)
	room := newGuarded(codec.MaxEncodedLen(len(src)))
	enc := c.Encode(room.limited(), src)
	if !bytes.Equal(src, kept) {
		return errors.New("Encode changed src")
	}
	if err := room.holds(enc); err != nil {
		return fmt.Errorf("Encode: %w", err)
	}
	dst := newGuarded(len(src))
	if err := c.Decode(dst.inner(), enc); err != nil {
		return err
	}
	if !bytes.Equal(dst.inner(), src) {
		return errors.New("Decode gives other bytes")
	}
	return dst.intact()
}

// guarded is memory with guard bytes on both sides.
type guarded struct {
	all []byte
	n   int
}

const (
	guardSize = 64
	guardByte = 0xa5
)

func newGuarded(n int) guarded {
	return guarded{bytes.Repeat([]byte{guardByte}, n+2*guardSize), n}
}

// inner returns the n bytes with a capacity that includes the guard: Decode must stop at len.
func (g guarded) inner() []byte { return g.all[guardSize : guardSize+g.n] }

// limited returns an empty slice with a capacity of n.
func (g guarded) limited() []byte { return g.all[guardSize : guardSize : guardSize+g.n] }

func (g guarded) intact() error {
	want := bytes.Repeat([]byte{guardByte}, guardSize)
	if !bytes.Equal(g.all[:guardSize], want) || !bytes.Equal(g.all[guardSize+g.n:], want) {
		return errors.New("bytes outside dst were written")
	}
	return nil
}

// holds returns an error for an encoding that does not begin at the start of g.
func (g guarded) holds(enc []byte) error {
	if len(enc) > 0 && &enc[0] != &g.all[guardSize] {
		return errors.New("the encoding is not in dst")
	}
	return g.intact()
}

// TestEncodeStaysInPlace encodes blocks that an encoder may move to larger memory: short
// matches among bytes that do not shrink.
func TestEncodeStaysInPlace(t *testing.T) {
	for seed := range uint64(200) {
		src := codectest.Corpus{Fill: codectest.Random}.Bytes(200+int(seed)*40, seed)
		for i := 64; i+24 < len(src); i += 24 {
			copy(src[i:i+5], src[i-int(seed)%60-4:])
		}
		for _, c := range []codec.Codec{codec.S2, codec.Zstd} {
			if err := roundTrip(c, src); err != nil {
				t.Errorf("%v, seed %d: %v", c.ID(), seed, err)
			}
		}
	}
}

func TestEncodeIntoShortDst(t *testing.T) {
	src := codectest.Corpora()[3].Bytes(100000, 1)
	for _, c := range []codec.Codec{codec.Raw, codec.S2, codec.Zstd} {
		dst := make([]byte, len(src))
		if err := c.Decode(dst, c.Encode(nil, src)); err != nil || !bytes.Equal(dst, src) {
			t.Errorf("%v: without a dst: %v", c.ID(), err)
		}
	}
}

func TestMaxEncodedLen(t *testing.T) {
	for _, n := range lengths {
		if over := codec.MaxEncodedLen(n) - n; over < 0 || over > 1024 {
			t.Errorf("MaxEncodedLen(%d) exceeds it by %d, want 0 to 1024", n, over)
		}
	}
}

// TestConcurrent makes more concurrent calls than there are coders.
func TestConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			for _, c := range []codec.Codec{codec.Raw, codec.S2, codec.Zstd} {
				for _, corpus := range codectest.Corpora() {
					if err := roundTrip(c, corpus.Bytes(150<<10, uint64(i))); err != nil {
						t.Errorf("%v on %s: %v", c.ID(), corpus.Name, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func digest(header, raw []byte) uint64 {
	s := codec.NewSum(header)
	s.Add(raw)
	return s.Digest()
}

// TestDigest divides the same bytes into header and chunk at every position.
func TestDigest(t *testing.T) {
	b := codectest.Corpus{Fill: codectest.Random}.Bytes(200, 1)
	want := xxhash.Sum64(b)
	for at := range len(b) + 1 {
		if got := digest(b[:at], b[at:]); got != want {
			t.Errorf("cut at %d: %#x, want %#x", at, got, want)
		}
		s := codec.NewSum(nil)
		s.Add(b[:at])
		s.Add(b[at:])
		if got := s.Digest(); got != want {
			t.Errorf("in two pieces, cut at %d: %#x, want %#x", at, got, want)
		}
	}
}

// TestDigestKnown compares digests with published values of XXH64 with seed 0.
func TestDigestKnown(t *testing.T) {
	if got := digest(nil, nil); got != 0xef46db3751d8e999 {
		t.Errorf("digest of no bytes: %#x", got)
	}
	if got := digest([]byte("a"), []byte("bc")); got != 0x44bc2cf5ad770999 {
		t.Errorf("digest of abc: %#x", got)
	}
}
