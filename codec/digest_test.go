package codec_test

import (
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

func digest(header, raw []byte) uint64 {
	s := codec.NewSum(header)
	s.Add(raw)
	return s.Digest()
}

// TestDigest cuts the same bytes into header and chunk at every place.
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

// TestDigestKnown pins the wire format to published values of XXH64 with seed 0.
func TestDigestKnown(t *testing.T) {
	if got := digest(nil, nil); got != 0xef46db3751d8e999 {
		t.Errorf("of nothing: %#x", got)
	}
	if got := digest([]byte("a"), []byte("bc")); got != 0x44bc2cf5ad770999 {
		t.Errorf("of abc: %#x", got)
	}
}
