package migrate

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/writer"
)

// BenchmarkCodec compares Auto with each codec, over QUIC on loopback, for what devices
// hold and for links of several speeds. The codecs take turns, so that all meet the
// same machine. TMPDIR had better be in memory.
func BenchmarkCodec(b *testing.B) {
	for _, link := range []struct {
		name      string
		perSecond uint64
		size      int
	}{{"100M", 12.5e6, 64 * mib}, {"1G", 125e6, 192 * mib}, {"10G", 1250e6, 512 * mib}, {"unlimited", 0, 512 * mib}} {
		for _, corpus := range append(codectest.Corpora(), codectest.Corpus{Name: "memory", Fill: memory}, codectest.Corpus{Name: "alternating", Fill: alternating}) {
			b.Run(link.name+"/"+corpus.Name, func(b *testing.B) {
				path := filepath.Join(b.TempDir(), "state")
				if err := os.WriteFile(path, corpus.Bytes(link.size, 1), 0o600); err != nil {
					b.Fatal(err)
				}
				compareCodecs(b, path, link.perSecond)
			})
		}
	}
}

func compareCodecs(b *testing.B, path string, perSecond uint64) {
	names := []string{"raw", "s2", "zstd", "auto"}
	var bytes, seconds [4]float64
	for i := range b.N {
		for j, p := range []codec.Policy{codec.Fixed(codec.Raw), codec.Fixed(codec.S2), codec.Fixed(codec.Zstd), codec.Auto()} {
			s := moveFile(b, path, path+names[j]+strconv.Itoa(i), perSecond, p)
			bytes[j] += float64(s.report.Devices[0].Bytes)
			seconds[j] += s.report.Downtime.Seconds()
		}
	}
	best := 0.0
	for j, name := range names {
		rate := bytes[j] / seconds[j] / 1e6
		b.ReportMetric(rate, name+"-MB/s")
		if name == "auto" {
			b.ReportMetric(rate/best, "of-best")
		}
		best = max(best, rate)
	}
	b.ReportMetric(0, "ns/op")
}

func moveFile(b *testing.B, from, to string, perSecond uint64, policy codec.Policy) side {
	p := barePair(b, overQUIC)
	src, err := file.NewSource(from)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	dst, err := file.NewSink(to, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(to)
	defer dst.Close()
	p.sources, p.sinks = []reader.Source{{Name: "d0", Device: src}}, []writer.Sink{{Name: "d0", Device: dst}}
	p.send.OnLimit, p.send.MaxDowntime, p.send.MaxBandwidth, p.send.Codec = reader.Force, time.Minute, perSecond, policy
	s, r := p.run(b)
	if s.err != nil || r.err != nil {
		b.Fatalf("send: %v\nreceive: %v", s.err, r.err)
	}
	return s
}

// memory is like a guest's: runs of pages of one kind, nearly half of them untouched.
func memory(dst []byte, seed uint64) {
	kinds := []func([]byte, uint64){codectest.Zero, codectest.Zero, codectest.Zero, codectest.Zero,
		codectest.Code, codectest.Text, codectest.Pointers, codectest.Mixed, codectest.Random}
	r := rand.New(rand.NewPCG(seed, 1))
	for len(dst) > 0 {
		n := min((1+r.IntN(256))*4096, len(dst))
		kinds[r.IntN(len(kinds))](dst[:n], r.Uint64())
		dst = dst[n:]
	}
}

// alternating has a chunk that no codec shrinks after each that all do.
func alternating(dst []byte, seed uint64) {
	for i := uint64(0); len(dst) > 0; i++ {
		n := min(mib, len(dst))
		if i%2 == 0 {
			codectest.Random(dst[:n], seed+i)
		} else {
			codectest.Text(dst[:n], seed+i)
		}
		dst = dst[n:]
	}
}
