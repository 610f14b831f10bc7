package migrate

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// counted counts the bytes written to the lanes of a carrier.
func counted(c carrier, n *atomic.Int64) carrier {
	return func(t testing.TB) (transport.Dialer, transport.Listener) {
		d, l := c(t)
		return &countedDialer{d, n}, l
	}
}

type countedDialer struct {
	transport.Dialer
	n *atomic.Int64
}

func (d *countedDialer) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := d.Dialer.Dial(ctx)
	return &countedLane{lane, d.n}, err
}

type countedLane struct {
	transport.Lane
	n *atomic.Int64
}

func (l *countedLane) Write(p []byte) (int, error) {
	l.n.Add(int64(len(p)))
	return l.Lane.Write(p)
}

// told records what the source reports about the lanes to an adaptive codec.
type told struct {
	codec.Policy
	perSecond float64
	lanes     int
	early     bool // before the first choice for a chunk
	chosen    atomic.Int64
}

func (p *told) Inform(perSecond float64, lanes int) {
	p.perSecond, p.lanes, p.early = perSecond, lanes, p.chosen.Load() == 0
}

func (p *told) Choose(device int, src []byte) codec.Choice {
	p.chosen.Add(1)
	return p.Policy.Choose(device, src)
}

// TestWarmUpInformsTheCodec: the codec's policy gets the padding's measurement of the lanes
// before its first choice.
func TestWarmUpInformsTheCodec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, paced(16<<20, 10*time.Millisecond))
		p.add(t, "gpu", "xe?size=16MiB", "xe?size=16MiB")
		policy := &told{Policy: codec.Fixed(codec.Raw)}
		p.send.DowntimeTarget, p.send.OnLimit, p.send.Codec, p.send.Lanes = 300*time.Millisecond, reader.Force, policy, 2
		s, r := p.run(t)
		p.committed(t, s, r)
		if policy.lanes != 2 || policy.perSecond < 15<<20 || policy.perSecond > 17<<20 || !policy.early || policy.chosen.Load() == 0 {
			t.Errorf("it got a report of %d lanes of %.0f bytes a second (early: %v), and chose %d times", policy.lanes, policy.perSecond, policy.early, policy.chosen.Load())
		}
	})
}

// TestWarmUpIsBounded: on a path that becomes ever faster, no round of padding is the last by
// itself. The source sends padding for wire.ProbeTime at most.
func TestWarmUpIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, growing(1<<20, 300, 50*time.Millisecond))
		p.add(t, "gpu", "xe?size=1MiB", "xe?size=1MiB")
		var began, ended time.Time
		p.send.ChunkSize, p.send.Codec = 4096, codec.Fixed(codec.Raw)
		p.send.Observe = func(ev migration.Event) {
			switch {
			case ev.Kind == migration.Phase && ev.Phase == migration.WarmUp:
				began = time.Now()
			case ev.Kind == migration.Phase && !began.IsZero() && ended.IsZero():
				ended = time.Now()
			}
		}
		s, r := p.run(t)
		p.committed(t, s, r)
		if took := ended.Sub(began); took < wire.ProbeTime || took > wire.ProbeTime+200*time.Millisecond {
			t.Errorf("the padding took %v", took)
		}
	})
}

// TestWarmUp: the source knows the rate of a path before it stops a device without PRE_COPY.
// It refuses a state that does not fit the limit while the guest runs. For a forced one the
// prediction uses that rate.
func TestWarmUp(t *testing.T) {
	for _, policy := range []reader.OnLimit{reader.Refuse, reader.Force} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, paced(16<<20, 10*time.Millisecond))
			src, _ := p.add(t, "gpu", "xe?size=16MiB", "xe?size=16MiB")
			p.send.DowntimeTarget, p.send.OnLimit = 300*time.Millisecond, policy
			s, r := p.run(t)
			if policy == reader.Force {
				p.committed(t, s, r)
				if said := s.report.Predicted.Downtime; said.Known || said.Took < 900*time.Millisecond || said.Took > 1100*time.Millisecond {
					t.Errorf("the prediction is %v, of a second on the wire", said)
				}
				return
			}
			limit, ok := errors.AsType[*reader.LimitError](s.err)
			if !ok || limit.Limit != reader.LimitDowntime || limit.Predicted < 900*time.Millisecond || limit.Predicted > 1100*time.Millisecond {
				t.Errorf("send: %v", s.err)
			}
			if s.report.Downtime != 0 || wentTo(src, vfio.StopCopy) {
				t.Errorf("the downtime is %v", s.report.Downtime)
			}
		})
	}
}

// TestWarmUpOnlyIfItMatters: a device with a small estimate, or one whose bytes have measured
// the path, is stopped at once. All padding stays within the bandwidth.
func TestWarmUpOnlyIfItMatters(t *testing.T) {
	for _, c := range []struct {
		url   string
		limit uint64
		most  int64 // bytes beyond the state itself
	}{
		{"mtty", 0, 8 << 10},
		{"qat", 0, 8 << 10},
		{"pds?size=40KiB", 0, 8 << 10},
		{"mlx5?size=8MiB", 0, 64 << 10},
		{"xe?size=1MiB", 4 << 20, 5 << 20},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sent atomic.Int64
			p := newPair(t, counted(paced(64<<20, 10*time.Millisecond), &sent))
			p.add(t, "d0", c.url, c.url)
			p.send.MaxBandwidth = c.limit
			s, _ := p.succeed(t)
			if over := sent.Load() - int64(s.report.Devices[0].WireBytes); over > c.most {
				t.Errorf("%s: %d bytes were written beside the state, want %d at most", c.url, over, c.most)
			}
		})
	}
}

// TestSlowSaverFastPath: a path that no device has saturated is faster than the measured
// rate. A switchover that fits is not refused for that.
func TestSlowSaverFastPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, paced(64<<20, 40*time.Millisecond))
		p.add(t, "nic0", "mlx5?size=2MiB&dirty=200KiB/s&save=8MiB/s", "mlx5?size=2MiB")
		p.add(t, "gpu0", "xe?size=8MiB", "xe?size=8MiB")
		p.send.DowntimeTarget = 400 * time.Millisecond
		s, _ := p.succeed(t)
		if d := s.report.Downtime; d > 400*time.Millisecond {
			t.Errorf("the downtime is %v", d)
		}
	})
}

// TestNothingOpenedAfterTheStop: all lanes exist before the guest is paused.
func TestNothingOpenedAfterTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials, atStop atomic.Int64
		c := func(t testing.TB) (transport.Dialer, transport.Listener) {
			d, l := paced(64<<20, 10*time.Millisecond)(t)
			return &dialCounter{d, &dials}, l
		}
		p := newPair(t, c)
		p.add(t, "nic0", "mlx5?size=8MiB&dirty=1MiB/s", "mlx5?size=8MiB")
		p.add(t, "gpu0", "xe?size=1MiB", "xe?size=1MiB")
		p.send.PauseGuest = func(context.Context) error { atStop.Store(dials.Load()); return nil }
		p.succeed(t)
		if before, all := atStop.Load(), dials.Load(); before != 3 || all != before {
			t.Errorf("%d lanes at the stop and %d in the end, want 3 (control, and 2 of data) and as many", before, all)
		}
	})
}

type dialCounter struct {
	transport.Dialer
	n *atomic.Int64
}

func (d *dialCounter) Dial(ctx context.Context) (transport.Lane, error) {
	d.n.Add(1)
	return d.Dialer.Dial(ctx)
}
