package codec_test

import (
	"testing"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

const benchSize = 1 << 20

func benchEach(b *testing.B, run func(b *testing.B, c codec.Codec, src, enc []byte)) {
	for _, c := range codec.All() {
		for _, corpus := range codectest.Corpora() {
			if !fits(c, corpus) {
				continue
			}
			src := corpus.Bytes(benchSize, 1)
			enc := c.Encode(nil, src)
			b.Run(c.ID().String()+"/"+corpus.Name, func(b *testing.B) {
				b.SetBytes(benchSize)
				b.ReportAllocs()
				run(b, c, src, enc)
			})
		}
	}
}

// BenchmarkEncode also reports the ratio of raw to encoded bytes.
func BenchmarkEncode(b *testing.B) {
	benchEach(b, func(b *testing.B, c codec.Codec, src, enc []byte) {
		dst := make([]byte, 0, codec.MaxEncodedLen(len(src)))
		for b.Loop() {
			c.Encode(dst, src)
		}
		if len(enc) > 0 {
			b.ReportMetric(float64(len(src))/float64(len(enc)), "ratio")
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	benchEach(b, func(b *testing.B, c codec.Codec, src, enc []byte) {
		dst := make([]byte, len(src))
		for b.Loop() {
			if err := c.Decode(dst, enc); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchCorpora(b *testing.B, f func(src []byte)) {
	for _, corpus := range codectest.Corpora() {
		src := corpus.Bytes(benchSize, 1)
		b.Run(corpus.Name, func(b *testing.B) {
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				f(src)
			}
		})
	}
}

// observe reports to a policy that a chunk was halved, at 1 GB/s.
func observe(p codec.Policy, c codec.Choice, n int) {
	took := time.Duration(n / 2)
	p.Observe(codec.Result{Choice: c, Raw: n, Wire: n / 2, Encode: took, Write: took, Lanes: 2})
}

// BenchmarkAuto measures a choice for a chunk that is not zero, and the Observe that follows.
func BenchmarkAuto(b *testing.B) {
	auto := codec.Auto()
	benchCorpora(b, func(src []byte) { observe(auto, auto.Choose(0, src), len(src)) })
}

// BenchmarkEncodeChunk measures EncodeChunk with Auto. For zeros that is the check for zeros.
func BenchmarkEncodeChunk(b *testing.B) {
	dst := make([]byte, 0, codec.MaxEncodedLen(benchSize))
	auto := codec.Auto()
	benchCorpora(b, func(src []byte) { codec.EncodeChunk(auto, 0, dst, src) })
}

func BenchmarkDigest(b *testing.B) {
	header := make([]byte, 40)
	benchCorpora(b, func(src []byte) { digest(header, src) })
}
