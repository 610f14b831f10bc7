//go:build !race

// The race detector makes sync.Pool drop some of its elements, and the libraries have
// their tables there. So these tests do not run with it.

package codec_test

import (
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

func noAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	for range 16 {
		f() // every coder of a pool allocates its memory
	}
	if n := testing.AllocsPerRun(50, f); n != 0 {
		t.Errorf("%s allocates %v times", what, n)
	}
}

func TestNoAllocs(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		for _, n := range []int{96, 4096, 1 << 20} {
			src := corpus.Bytes(n, 10)
			room := make([]byte, 0, codec.MaxEncodedLen(n))
			raw := make([]byte, n)
			enc := c.Encode(nil, src)
			noAllocs(t, "Encode", func() { c.Encode(room, src) })
			noAllocs(t, "Decode", func() { c.Decode(raw, enc) })
		}
	})
}

func TestNoAllocsInDataPath(t *testing.T) {
	header := make([]byte, 40)
	for _, corpus := range codectest.Corpora() {
		src := corpus.Bytes(1<<20, 11)
		room := make([]byte, 0, codec.MaxEncodedLen(len(src)))
		auto := codec.Auto()
		noAllocs(t, "Auto", func() { observe(auto, auto.Choose(3, src), len(src)) })
		noAllocs(t, "Sum", func() { digest(header, src) })
		noAllocs(t, "EncodeChunk", func() { codec.EncodeChunk(auto, 0, room, src) })
	}
}
