package migrate

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// tally counts the allocations that a chunk in the middle of a stream costs both sides.
// One-time allocations have happened by then.
type tally struct {
	chunks int           // of the stream; the second and the third quarter count
	pause  time.Duration // before each is read
	at     int           // chunks read so far
	said   atomic.Int64  // messages of the destination so far

	allocs, bytes, acks float64 // of one chunk
}

// tallySize is the size of a chunk.
const tallySize = 64 << 10

// chunk counts a chunk that was read.
func (c *tally) chunk() {
	switch c.at {
	case c.chunks / 4:
		c.count(-1)
	case c.chunks * 3 / 4:
		c.count(+1)
	}
	c.at++
}

func (c *tally) count(sign float64) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	each := sign / float64(c.chunks/2)
	c.allocs += float64(m.Mallocs) * each
	c.bytes += float64(m.TotalAlloc) * each
	c.acks += float64(c.said.Load()) * each
}

// tallied is a source whose chunks are counted.
type tallied struct {
	vfio.Device
	tally *tally
}

func (d tallied) SetState(to vfio.State) (vfio.Stream, error) {
	s, err := d.Device.SetState(to)
	if s != nil {
		s = talliedStream{s, d.tally}
	}
	return s, err
}

type talliedStream struct {
	vfio.Stream
	tally *tally
}

func (s talliedStream) Read(p []byte) (int, error) {
	time.Sleep(s.tally.pause)
	n, err := s.Stream.Read(p)
	if n > 0 {
		s.tally.chunk()
	}
	return n, err
}

// talliedListener is the destination's listener, whose messages are counted.
type talliedListener struct {
	transport.Listener
	tally *tally
}

func (l talliedListener) Accept(ctx context.Context) (transport.Lane, error) {
	lane, err := l.Listener.Accept(ctx)
	if err == nil {
		lane = talliedLane{lane, l.tally}
	}
	return lane, err
}

type talliedLane struct {
	transport.Lane
	tally *tally
}

func (l talliedLane) Write(p []byte) (int, error) {
	l.tally.said.Add(1)
	return l.Lane.Write(p)
}

// talliedWays differ in the parts that may allocate.
var talliedWays = []struct {
	name  string
	add   func(t testing.TB, p *pair, size int)
	codec codec.Codec
}{
	{"raw", simulated("xe?content=random"), codec.Raw},
	{"zstd", simulated("xe?content=mixed"), codec.Zstd},
	{"pre-copy", simulated("vgpu?content=random"), codec.Raw},
	{"crowd", crowd, codec.Raw},
	{"durable", durable, codec.Raw},
}

func simulated(device string) func(testing.TB, *pair, int) {
	return func(t testing.TB, p *pair, size int) {
		url := fmt.Sprintf("%s&size=%d", device, size)
		p.add(t, "d0", url, url)
	}
}

// crowd adds many devices: arrays with an element for each device no longer fit the stack.
func crowd(t testing.TB, p *pair, size int) {
	simulated("vgpu?content=random")(t, p, size)
	for i := range 7 {
		p.add(t, fmt.Sprintf("d%d", i+1), "mtty", "mtty")
	}
}

// durable adds a file. The destination reports how much of it would outlive the process.
func durable(t testing.TB, p *pair, size int) {
	p.files(t, "d0", size)
	p.journals(t, filepath.Join(t.TempDir(), "journals"))
}

// migrate runs a migration with a tally of its chunks.
func (c *tally) migrate(t testing.TB, over carrier, add func(testing.TB, *pair, int), by codec.Codec) {
	p := barePair(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
		d, l := over(t)
		return d, talliedListener{l, c}
	})
	add(t, p, c.chunks*tallySize)
	p.sources[0].Device = tallied{p.sources[0].Device, c}
	p.send.OnLimit, p.send.Codec, p.send.ChunkSize, p.send.ResumeAfter = reader.Force, codec.Fixed(by), tallySize, time.Minute
	p.succeed(t)
}

// TestAllocations: once a stream flows, neither a chunk nor its ACK costs either side an
// allocation. Each chunk has its own ACK, because the next one is read later. The limits
// leave room for ticks, and for syncs of files.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose some")
	}
	for _, way := range talliedWays {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := tally{chunks: 1024, pause: 100 * time.Microsecond}
				c.migrate(t, pipe, way.add, way.codec)
				t.Logf("%.3f allocations for each chunk, and %.3f ACKs", c.allocs, c.acks)
				if c.allocs > 0.25 || c.acks < 0.75 {
					t.Errorf("want 0.25 at the most, and 0.75 at the least")
				}
			})
		})
	}
}

// BenchmarkAllocations measures the allocations of both sides and the carrier per chunk.
func BenchmarkAllocations(b *testing.B) {
	for _, over := range []struct {
		name string
		carrier
	}{{"pipe", pipe}, {"unix", unixCarrier}, {"tls", overTLS}, {"quic", overQUIC}} {
		for _, way := range talliedWays {
			b.Run("over="+over.name+"/way="+way.name, func(b *testing.B) {
				var sum tally
				for range b.N {
					c := tally{chunks: 1024}
					c.migrate(b, over.carrier, way.add, way.codec)
					sum.allocs, sum.bytes, sum.acks = sum.allocs+c.allocs, sum.bytes+c.bytes, sum.acks+c.acks
				}
				n := float64(b.N)
				b.ReportMetric(sum.allocs/n, "allocs/chunk")
				b.ReportMetric(sum.bytes/n, "B/chunk")
				b.ReportMetric(sum.acks/n, "acks/chunk")
			})
		}
	}
}

// journals gives both sides journals in files, in a directory that does not exist yet.
func (p *pair) journals(t testing.TB, dir string) {
	t.Helper()
	a := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	j, err := journal.Open(dir, journal.Options{Role: journal.Source, Mig: a.Mig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	p.send.Attempt, p.send.Journal = a, j
	p.receive.Journals = func(mig migration.ID, existing bool) (handoff.Journal, error) {
		return journal.Open(dir, journal.Options{Role: journal.Destination, Mig: mig, Existing: existing})
	}
}
