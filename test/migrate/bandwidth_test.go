package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport/migration"
)

const mib = 1 << 20

// TestMaxBandwidth: a migration lasts as long as its bytes need at the limit.
func TestMaxBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		for _, name := range []string{"d0", "d1"} {
			p.add(t, name, "xe?size=16MiB&content=random", "xe?size=16MiB&content=random")
		}
		p.send.MaxBandwidth, p.send.ChunkSize, p.send.ResumeAfter = 4*mib, 1<<16, time.Minute
		s, _ := p.succeed(t)
		if got := s.report.Total; got < 7900*time.Millisecond || got > 8500*time.Millisecond {
			t.Errorf("32 MiB at 4 MiB/s took %v", got)
		}
	})
}

// TestMaxBandwidthLive: the limit is raised while the migration runs.
func TestMaxBandwidthLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		p.add(t, "d0", "xe?size=32MiB&content=random", "xe?size=32MiB&content=random")
		p.send.MaxBandwidth, p.send.ResumeAfter, p.send.Tuning = mib, time.Minute, new(reader.Tuning)
		p.send.OnLimit = reader.Force // at 1 MiB/s it would take 32 s
		p.send.Observe = when(migration.StopCopy, 2*time.Second, func() { p.send.Tuning.SetMaxBandwidth(10 * mib) })
		s, _ := p.succeed(t)
		if got := s.report.Total; got < 4900*time.Millisecond || got > 5500*time.Millisecond {
			t.Errorf("2 s at 1 MiB/s and the other 30 MiB at 10 took %v", got)
		}
	})
}

// TestMaxBandwidthCancelled: a lane that waits for its turn delays no cancel.
func TestMaxBandwidthCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		p.add(t, "d0", "mlx5?size=32MiB", "mlx5?size=32MiB")
		p.send.MaxBandwidth = 1000
		var began time.Time
		p.send.Observe = when(migration.PreCopy, time.Second, func() { began = time.Now(); p.cancelSend() })
		s, r := p.run(t)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		p.send.MaxBandwidth = 0
		p.wantAborted(t, s, r)
	})
}

// TestPreflightWithinBandwidth: the limit applies to the preflight too, and to its
// prediction.
func TestPreflightWithinBandwidth(t *testing.T) {
	for _, limit := range []uint64{20 << 10, 8 * mib} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "d0", nic, nic)
			p.send.MaxBandwidth = limit
			w := wait(t, p)
			got, err := w.preflight()
			if err != nil {
				t.Fatal(err)
			}
			if got.Rate < 0.9*float64(limit) || got.Rate > 1.1*float64(limit) || got.Probed > limit+limit/10 {
				t.Errorf("a rate of %.0f, by %d bytes, the limit is %d", got.Rate, got.Probed, limit)
			}
			p.send.MaxBandwidth = 0
			w.migrate(t)
		})
	}
}

// BenchmarkPipeline moves an incompressible state from one device to another on loopback:
// read, digest, frames, lanes, checks, write.
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
		p.send.OnLimit, p.send.Codec, p.send.ResumeAfter = reader.Force, codec.Fixed(codec.Raw), time.Minute
		s, r := p.run(b)
		if s.err != nil || r.err != nil {
			b.Fatalf("send: %v\nreceive: %v", s.err, r.err)
		}
		took += s.report.Downtime
		moved += s.report.Devices[0].Bytes
	}
	b.ReportMetric(float64(moved)/took.Seconds()/1e6, "MB/s")
}
