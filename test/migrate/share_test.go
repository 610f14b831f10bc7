package migrate

import (
	"context"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// narrow is a carrier whose lanes share a link of a given rate, both in virtual time.
func narrow(rate float64) carrier {
	return func(t testing.TB) (transport.Dialer, transport.Listener) {
		d, l := pipe(t)
		return &link{d, rate, make(chan struct{}, 1)}, l
	}
}

type link struct {
	transport.Dialer
	rate float64
	busy chan struct{}
}

func (l *link) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := l.Dialer.Dial(ctx)
	return &linkLane{lane, l}, err
}

type linkLane struct {
	transport.Lane
	link *link
}

func (l *linkLane) Write(p []byte) (int, error) {
	l.link.busy <- struct{}{}
	time.Sleep(time.Duration(float64(len(p)) / l.link.rate * float64(time.Second)))
	<-l.link.busy
	return l.Lane.Write(p)
}

// loaded is how long after the source's stop a device had all of its state.
func loaded(t testing.TB, src, dst *sim.Device) time.Duration {
	t.Helper()
	var stopped time.Time
	for _, e := range src.Log() {
		if e.To == vfio.StopCopy {
			stopped = e.At
		}
	}
	for _, e := range dst.Log() {
		if e.From == vfio.Resuming && e.To == vfio.Stop {
			return e.At.Sub(stopped)
		}
	}
	t.Fatal("the device was never loaded")
	return 0
}

// TestUnequalDevices: devices of very unequal size finish STOP_COPY together, and in the
// time that the link needs for all of them.
func TestUnequalDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 16 << 20
		p := newPair(t, narrow(rate))
		for i, mib := range []int{2, 4, 8, 18} {
			url := fmt.Sprintf("xe?size=%dMiB&content=random&seed=%d", mib, i)
			p.add(t, fmt.Sprint("gpu", i), url, fmt.Sprintf("xe?size=%dMiB", mib))
		}
		p.send.ChunkSize, p.send.Memory, p.receive.Memory = 64<<10, 4<<20, 4<<20
		s, _ := p.succeed(t)
		var all []time.Duration
		for i := range p.src {
			all = append(all, loaded(t, p.src[i], p.dst[i]))
		}
		t.Logf("loaded after %v, downtime %v", all, s.report.Downtime)
		for i, took := range all {
			if took < all[3]*3/4 {
				t.Errorf("device %d was loaded after %v, the largest after %v", i, took, all[3])
			}
		}
		if s.report.Downtime > 2200*time.Millisecond {
			t.Errorf("the downtime is %v, the link takes 2 s for all", s.report.Downtime)
		}
	})
}

// TestSlowLoader: one device loads for as long as the link needs for all. It has to get its
// share of the link from the beginning.
func TestSlowLoader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, narrow(16<<20))
		for i := range 3 {
			p.add(t, fmt.Sprint("nic", i), fmt.Sprintf("xe?size=5MiB&content=random&seed=%d", i), "xe?size=5MiB")
		}
		p.add(t, "gpu", "xe?size=15MiB&content=random&seed=9", "xe?size=15MiB&load=8500KiB/s")
		p.send.ChunkSize, p.send.Memory, p.receive.Memory = 64<<10, 4<<20, 4<<20
		s, _ := p.succeed(t)
		t.Logf("downtime %v", s.report.Downtime)
		if s.report.Downtime > 2100*time.Millisecond {
			t.Errorf("the downtime is %v, link and device alone take 1.9 s", s.report.Downtime)
		}
	})
}

// TestPriority: a device with priority is loaded before its equals.
func TestPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, narrow(16<<20))
		for i := range 3 {
			p.add(t, fmt.Sprint("gpu", i), fmt.Sprintf("xe?size=24MiB&content=random&seed=%d", i), "xe?size=24MiB")
		}
		p.sources[1].Priority = 4
		p.send.ChunkSize, p.send.Memory, p.receive.Memory = 64<<10, 4<<20, 4<<20
		p.succeed(t)
		first, second := loaded(t, p.src[1], p.dst[1]), loaded(t, p.src[2], p.dst[2])
		t.Logf("loaded after %v, its equal after %v", first, second)
		if first > second*9/10 {
			t.Errorf("with priority a device was loaded after %v, its equal after %v", first, second)
		}
	})
}

// misjudged is a device with a wrong estimate of its STOP_COPY size.
type misjudged struct {
	*sim.Device
	says uint64
}

func (m misjudged) StopCopySize() (uint64, error) { return m.says, nil }

// TestLyingEstimates: a device that estimates nothing, or an impossible size, costs the
// others and itself only some speed.
func TestLyingEstimates(t *testing.T) {
	for _, says := range []uint64{0, 1 << 10, 1 << 40, math.MaxUint64} {
		t.Run(fmt.Sprint(says), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, narrow(16<<20))
				for i, mib := range []int{1, 4, 8} {
					p.add(t, fmt.Sprint("gpu", i), fmt.Sprintf("xe?size=%dMiB&content=random&seed=%d", mib, i), fmt.Sprintf("xe?size=%dMiB", mib))
				}
				p.sources[1].Device = misjudged{p.src[1], says}
				p.send.ChunkSize, p.send.Memory, p.receive.Memory = 64<<10, 2<<20, 2<<20
				p.send.OnLimit = reader.Force // else an estimate of a TiB is believed, and refused
				if s, _ := p.succeed(t); s.report.Downtime > 900*time.Millisecond {
					t.Errorf("the downtime is %v, the link takes 0.81 s for all", s.report.Downtime)
				}
			})
		})
	}
}
