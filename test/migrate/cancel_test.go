package migrate

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/writer"
)

// when runs do once, a while after the first event of a phase.
func when(phase string, later time.Duration, do func()) migration.Observer {
	var once sync.Once
	return func(ev migration.Event) {
		if ev.Phase == phase {
			once.Do(func() {
				if later == 0 {
					do()
				} else {
					time.AfterFunc(later, do)
				}
			})
		}
	}
}

// slow is a device whose every phase lasts a moment.
const slow = "vgpu?size=4MiB&save=16MiB/s&dirty=4MiB/s"

// TestCancel cancels either side in every phase. Before COMMIT the source runs
// again within a second.
func TestCancel(t *testing.T) {
	for _, c := range []struct {
		name         string
		source, sink string // devices; slow where empty
		phase        string
		later        time.Duration
		quic         bool // over the network too, in real time
	}{
		{name: "PRE_COPY", phase: migration.PreCopy, quic: true},
		{name: "in PRE_COPY", phase: migration.PreCopy, later: 100 * time.Millisecond},
		{name: "pause", phase: migration.Stop, quic: true},
		{name: "STOP_COPY", phase: migration.StopCopy, quic: true},
		{name: "in STOP_COPY", source: "xe?size=4MiB&save=8MiB/s", sink: "xe?size=4MiB", phase: migration.StopCopy, later: 100 * time.Millisecond},
		{name: "blocked read in PRE_COPY", source: with(nic, "hang@1MiB"), sink: nic, phase: migration.PreCopy, later: 50 * time.Millisecond},
		{name: "blocked read in STOP_COPY", quic: true, source: "xe?size=2MiB&fault=hang@1MiB", sink: "xe?size=2MiB", phase: migration.StopCopy, later: 50 * time.Millisecond},
		{name: "slow load", source: "xe?size=4MiB", sink: "xe?size=4MiB&load=4MiB/s", phase: migration.StopCopy, later: 300 * time.Millisecond},
		{name: "slow load under the state lock", source: "mlx5?size=16MiB", sink: "mlx5?size=16MiB&load=4MiB/s", phase: migration.PreCopy, later: 300 * time.Millisecond},
		{name: "slow RESUMING to STOP", source: "qat", sink: "qat?load=8KiB/s", phase: migration.StopCopy, later: 100 * time.Millisecond},
	} {
		for _, atSource := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, at the source %v", c.name, atSource), func(t *testing.T) {
				timed(t, c.quic, func(t *testing.T, carry carrier) {
					if c.source == "" {
						c.source, c.sink = slow, slow
					}
					p := newPair(t, carry)
					p.add(t, "d0", c.source, c.sink)
					g := p.guest()
					var began atomic.Int64
					cancel := p.cancelReceive
					if atSource {
						cancel = p.cancelSend
					}
					p.send.Observe = when(c.phase, c.later, func() { began.Store(time.Now().UnixNano()); cancel() })
					p.receive.ChunkSize = 256 << 10
					s, r := p.run(t)
					p.wantCancelled(t, s, !atSource)
					p.wantCancelled(t, r, atSource)
					p.wantSoon(t, time.Unix(0, began.Load()))
					if len(g.calls) == 1 {
						t.Errorf("the guest got the calls %v", g.calls)
					}
					p.wantAborted(t, s, r)
				})
			})
		}
	}
}

func (p *pair) wantCancelled(t *testing.T, got side, remote bool) {
	t.Helper()
	if f := got.fault(t); f.Code != transport.CodeCancelled || f.Remote != remote {
		t.Errorf("the report has %v, remote %v: %q", f.Code, f.Remote, f)
	}
}

// wantSoon checks that the source's devices ran again within a second.
func (p *pair) wantSoon(t *testing.T, since time.Time) {
	t.Helper()
	for i, d := range p.src {
		log := d.Log()
		if len(log) == 0 {
			continue
		}
		if took := log[len(log)-1].At.Sub(since); took > time.Second {
			t.Errorf("source %d ran again %v after the cancel", i, took)
		}
	}
}

// TestCancelConnecting cancels a source that has not reached a destination.
func TestCancelConnecting(t *testing.T) { synctest.Test(t, testCancelConnecting) }

func testCancelConnecting(t *testing.T) {
	p := newPair(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
		_, l := pipe(t)
		return deaf{}, l
	})
	p.add(t, "d0", nic, nic)
	p.lonely = true
	time.AfterFunc(50*time.Millisecond, p.cancelSend)
	s, r := p.run(t)
	p.wantCancelled(t, s, false)
	p.wantCancelled(t, r, false)
	p.wantAborted(t, s, r)
}

// deaf dials and reaches no destination.
type deaf struct{}

func (deaf) Dial(ctx context.Context) (transport.Lane, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("%w: %w", transport.ErrUnreachable, context.Cause(ctx))
}

// TestCancelPause: a guest whose pause is slow is resumed after it.
func TestCancelPause(t *testing.T) { synctest.Test(t, testCancelPause) }

func testCancelPause(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "d0", nic, nic)
	g := p.guest()
	g.wait = 200 * time.Millisecond
	p.send.Observe = when(migration.Stop, 50*time.Millisecond, p.cancelSend)
	s, r := p.run(t)
	if fmt.Sprint(g.calls) != "[pause resume]" {
		t.Errorf("the guest got the calls %v", g.calls)
	}
	p.wantCancelled(t, s, false)
	p.wantAborted(t, s, r)
}

// gate is a journal that blocks at one record until the test opens it.
type gate struct {
	*handoff.Memory
	at      handoff.Record
	reached func()
}

func (g gate) Append(e handoff.Entry) error {
	if e.Record == g.at {
		g.reached()
	}
	return g.Memory.Append(e)
}

// TestCancelReady: while the source decides, or writes COMMIT, either side is cancelled.
// Once COMMIT is recorded, a cancel is too late on both sides. The destination asks for
// what the source cannot do alone any more.
func TestCancelReady(t *testing.T) {
	t.Run("at the destination, while the source decides", func(t *testing.T) {
		eachCarrier(t, func(t *testing.T, carry carrier) {
			p := newPair(t, carry)
			p.add(t, "d0", nic, nic)
			p.send.Approve = func(ctx context.Context) error {
				p.cancelReceive()
				<-ctx.Done()
				return context.Cause(ctx)
			}
			s, r := p.run(t)
			p.wantCancelled(t, s, true)
			p.wantCancelled(t, r, false)
			p.send.Approve = nil
			p.wantAborted(t, s, r)
		})
	})
	for _, where := range []string{"destination", "source"} {
		t.Run("at the "+where+", while the source writes COMMIT", func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "d0", nic, nic)
			cancel := map[string]func(){"destination": func() { p.cancelReceive(); time.Sleep(100 * time.Millisecond) }, "source": p.cancelSend}[where]
			p.send.Journal = gate{handoff.NewMemory(), handoff.Commit, cancel}
			s, r := p.run(t)
			if s.err != nil || r.err != nil {
				t.Fatalf("send: %v\nreceive: %v", s.err, r.err)
			}
			p.committed(t, s, r)
		})
	}
}

// cable is a carrier that the test can cut.
type cable struct {
	carrier carrier
	dialer  transport.Dialer

	mu    sync.Mutex
	cut   bool
	lanes []transport.Lane
}

func (c *cable) connect(t testing.TB) (transport.Dialer, transport.Listener) {
	d, l := c.carrier(t)
	c.dialer = d
	return c, l
}

func (c *cable) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := c.dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lanes = append(c.lanes, lane)
	if c.cut {
		lane.Close()
	}
	return lane, nil
}

func (c *cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, l := range c.lanes {
		l.Close()
	}
}

// TestLost cuts the connection in every phase before COMMIT.
func TestLost(t *testing.T) {
	for _, phase := range []string{"welcome", migration.PreCopy, migration.Stop, migration.StopCopy, "in stop-copy", "ready"} {
		t.Run(phase, func(t *testing.T) {
			timed(t, phase == migration.PreCopy || phase == "in stop-copy", func(t *testing.T, carry carrier) {
				wire := &cable{carrier: carry}
				p := newPair(t, wire.connect)
				p.add(t, "d0", slow, slow)
				p.add(t, "d1", "xe?size=4MiB&save=16MiB/s", "xe?size=4MiB")
				switch phase {
				case "welcome":
					p.receive.Journals = always(gate{handoff.NewMemory(), handoff.Open, wire.Cut})
				case "ready":
					p.receive.Journals = always(gate{handoff.NewMemory(), handoff.Ready, wire.Cut})
				case "in stop-copy":
					p.send.Observe = when(migration.StopCopy, 100*time.Millisecond, wire.Cut)
				default:
					p.send.Observe = when(phase, 0, wire.Cut)
				}
				s, r := p.run(t)
				want := [2]transport.Code{transport.CodeNetwork, transport.CodeNetwork}
				if phase == "ready" { // no silence ends its wait, only its user does
					want[1] = transport.CodeCancelled
				}
				for i, got := range []side{s, r} {
					if f := got.fault(t); f.Code != want[i] || f.Remote {
						t.Errorf("the report has %v, remote %v: %q", f.Code, f.Remote, f)
					}
				}
				p.receive.Journals = nil
				p.left = phase == "ready"
				p.wantAborted(t, s, r)
			})
		})
	}
}

// TestInDoubt cuts the connection where neither side can know the outcome.
func TestInDoubt(t *testing.T) {
	t.Run("COMMIT lost", func(t *testing.T) {
		eachCarrier(t, func(t *testing.T, carry carrier) {
			wire := &cable{carrier: carry}
			p := newPair(t, wire.connect)
			p.add(t, "d0", nic, nic)
			p.send.Journal = gate{handoff.NewMemory(), handoff.Commit, wire.Cut}
			p.send.DoubtFor, p.lonely = time.Second, true
			s, r := p.run(t)
			if s.report.Outcome != migration.InDoubt || r.report.Outcome != migration.InDoubt {
				t.Fatalf("outcomes %v (%v) and %v (%v)", s.report.Outcome, s.err, r.report.Outcome, r.err)
			}
			p.endCopy(t, r)
			wantState(t, p.src[0], vfio.StopCopy) // kept, and not resumed
			if _, err := p.src[0].SetState(vfio.Running); err != nil {
				t.Fatal(err)
			}
			p.atHome(t)
			p.again(t)
		})
	})
	t.Run("RUNNING lost", func(t *testing.T) {
		eachCarrier(t, func(t *testing.T, carry carrier) {
			wire := &cable{carrier: carry}
			p := newPair(t, wire.connect)
			p.add(t, "d0", nic, nic)
			p.receive.Journals = always(gate{handoff.NewMemory(), handoff.Accept, wire.Cut})
			p.send.DoubtFor, p.lonely = time.Second, true
			s, r := p.run(t)
			if s.report.Outcome != migration.InDoubt || r.report.Outcome != migration.Committed {
				t.Fatalf("outcomes %v (%v) and %v (%v)", s.report.Outcome, s.err, r.report.Outcome, r.err)
			}
			wantState(t, p.src[0], vfio.StopCopy)
			wantState(t, p.dst[0], vfio.Running)
			if err := p.dst[0].Verify(); err != nil {
				t.Error(err)
			}
		})
	})
}

// A cancel ends a destination whose device accepts no more data: here a pipe without a
// reader.
func TestCancelUnreadPipe(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c carrier) {
		p := newPair(t, c)
		src := open(t, "xe?size=8MiB")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		fd, err := dup(w)
		if err != nil {
			t.Fatal(err)
		}
		sink, err := file.ToFD(fd, "fd:pipe")
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		p.sources = []reader.Source{{Name: "gpu0", Device: src}}
		p.sinks = []writer.Target{{Name: "gpu0", Device: sink}}
		var began time.Time
		p.send.Observe = when(migration.StopCopy, 300*time.Millisecond, func() { began = time.Now(); p.cancelSend() })
		s, d := p.run(t)
		if took := time.Since(began); began.IsZero() || took > 2500*time.Millisecond {
			t.Errorf("cancelled at %v, ended %v after", began, took)
		}
		if s.report.Outcome != migration.Aborted || d.report.Outcome != migration.Aborted {
			t.Errorf("outcomes %v (%v) and %v (%v)", s.report.Outcome, s.err, d.report.Outcome, d.err)
		}
		wantState(t, src, vfio.Running)
	})
}

func dup(f *os.File) (int, error) {
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// TestPeerThatDoesNotListen: a peer that answers, and then reads no control message, must
// not prevent a cancel.
func TestPeerThatDoesNotListen(t *testing.T) {
	t.Run("destination", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d, listener := pipe(t)
			l := &liar{T: t, listener: listener, journal: migration.NewJournalID()}
			src := open(t, "mlx5?size=4MiB")
			go func() {
				l.open()
				l.send(l.welcome())
				l.accept()
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			report, err := reader.Send(ctx, d, []reader.Source{{Name: "d0", Device: src}}, &reader.Options{ChunkSize: 4096, Lanes: 1})
			if report.Outcome != migration.Aborted || err == nil {
				t.Errorf("outcome %v (%v)", report.Outcome, err)
			}
			wantState(t, src, vfio.Running)
		})
	})
	t.Run("source", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d, listener := pipe(t)
			h := &hostile{T: t, dialer: d, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}}
			sinks := []writer.Target{{Name: "d0", Device: &taker{Device: open(t, "mtty")}}, {Name: "d1", Device: &taker{Device: open(t, "mtty")}}}
			go h.open()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			report, err := writer.Receive(ctx, listener, sinks, nil)
			if report.Outcome != migration.Aborted || err == nil {
				t.Errorf("outcome %v (%v)", report.Outcome, err)
			}
		})
	})
}
