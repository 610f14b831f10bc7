package migrate

import (
	"testing"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
)

// BenchmarkPipeline is the whole way of a state that does not compress, from one device
// to another on loopback: read, digest, frames, lanes, checks, write.
func BenchmarkPipeline(b *testing.B) {
	b.Run("over=quic", func(b *testing.B) { pipeline(b, overQUIC) })
	b.Run("over=tls", func(b *testing.B) { pipeline(b, overTLS) })
}

func pipeline(b *testing.B, over carrier) {
	var took time.Duration
	var moved uint64
	for range b.N {
		p := barePair(b, over)
		p.add(b, "d0", "xe?size=512MiB", "xe?size=512MiB")
		p.send.OnLimit, p.send.Codec, p.send.MaxDowntime = reader.Force, codec.Fixed(codec.Raw), time.Minute
		s, r := p.run(b)
		if s.err != nil || r.err != nil {
			b.Fatalf("send: %v\nreceive: %v", s.err, r.err)
		}
		took += s.report.Downtime
		moved += s.report.Devices[0].Bytes
	}
	b.ReportMetric(float64(moved)/took.Seconds()/1e6, "MB/s")
}
