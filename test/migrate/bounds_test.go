package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/test/simnet"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// TestResumeAfter: a destination that is merely slow does not keep a guest paused for longer
// than ResumeAfter, even if it makes steady progress.
func TestResumeAfter(t *testing.T) {
	timed(t, false, func(t *testing.T, c carrier) {
		p := newPair(t, c)
		p.add(t, "gpu0", "xe?size=4MiB", "xe?size=4MiB&load=500KiB/s")
		p.send.DowntimeTarget, p.send.ResumeAfter = time.Second, 3*time.Second
		s, r := p.run(t)
		if f := s.fault(t); f.Code != transport.CodeTimeout || f.Remote || !strings.Contains(f.Error(), "3s") {
			t.Errorf("send: %v", f)
		}
		if d := s.report.Downtime; d < 3*time.Second || d > 3200*time.Millisecond {
			t.Errorf("the guest was stopped for %v", d)
		}
		if s.report.Outcome != migration.Aborted || r.report.Outcome != migration.Aborted {
			t.Errorf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
		}
		p.atHome(t)
	})
}

// stuck is a device whose driver blocks in a read or write, and ignores a cancel.
type stuck struct {
	*sim.Device
	free chan struct{}
}

func (d *stuck) SetState(to vfio.State) (vfio.Stream, error) {
	if now, _ := d.State(); now.Saving() && to != vfio.StopCopy {
		return nil, &vfio.TransitionError{From: now, To: to, Now: now, Err: vfio.ErrInError}
	}
	s, err := d.Device.SetState(to)
	if s != nil {
		s = &stuckStream{s, d.free}
	}
	return s, err
}

// Reset waits for the write, as with a kernel device and with a file.
func (d *stuck) Reset() error { <-d.free; return vfio.ErrInError }

type stuckStream struct {
	vfio.Stream
	free chan struct{}
}

func (s *stuckStream) Read([]byte) (int, error)  { <-s.free; return 0, vfio.ErrSessionLost }
func (s *stuckStream) Write([]byte) (int, error) { <-s.free; return 0, vfio.ErrSessionLost }

// TestStuckDriver: if a driver call neither returns nor can be cancelled, the caller gets
// an error, and its goroutine back.
func TestStuckDriver(t *testing.T) {
	for _, side := range []string{"source", "destination"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				free := make(chan struct{})
				p := newPair(t, pipe)
				src, dst := p.add(t, "gpu0", "xe?size=4MiB", "xe?size=4MiB")
				if side == "source" {
					p.sources[0].Device = &stuck{src, free}
				} else {
					p.sinks[0].Device = &stuck{dst, free}
				}
				p.send.StalledAfter = 2 * time.Second
				began := time.Now()
				s, r := p.run(t)
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("it took %v", took)
				}
				close(free)
				end, want := s, "a read"
				if side == "destination" {
					end, want = r, "a write"
				}
				if end.report.Outcome != migration.NeedsReset || end.err == nil {
					t.Errorf("outcome %v, %v", end.report.Outcome, end.err)
				}
				if text := strings.Join(end.report.Warnings, "\n"); !strings.Contains(text, "not returned from "+want) {
					t.Errorf("warnings %q", text)
				}
				if d := end.report.Devices; len(d) != 1 || !strings.Contains(d[0].State, "unknown") {
					t.Errorf("devices %+v", d)
				}
				synctest.Wait()
			})
		})
	}
}

// sluggish is a device whose writes can all be cancelled, and whose reset is slow.
type sluggish struct{ *sim.Device }

func (d sluggish) Reset() error {
	time.Sleep(time.Minute)
	return d.Device.Reset()
}

// TestSlowReset: only a blocked write makes a reset late.
func TestSlowReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		_, dst := p.add(t, "gpu0", "xe?size=4MiB&fault=read@1MiB", "xe?size=4MiB")
		p.sinks[0].Device = sluggish{dst}
		_, r := p.run(t)
		if r.report.Outcome != migration.Aborted || len(r.report.Warnings) > 0 {
			t.Errorf("outcome %v, warnings %q", r.report.Outcome, r.report.Warnings)
		}
		p.atHome(t)
	})
}

// TestRefusedDevices: a destination that refuses all devices still reports their states.
func TestRefusedDevices(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "nic0", "mlx5?size=1MiB", "qat")
	s, r := p.run(t)
	if f := s.fault(t); f.Code != transport.CodeIncompatible {
		t.Errorf("send: %v", f)
	}
	if d := r.report.Devices; len(d) != 1 || d[0].Name != "nic0" || d[0].State != "RUNNING" || d[0].Bytes != 0 {
		t.Errorf("devices %+v", d)
	}
	p.atHome(t)
}

// TestSecondSourceRefused: a second source gets the reason why the destination refuses it, and so
// does the destination's user.
func TestSecondSourceRefused(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c carrier) {
		var second side
		var warned []string
		d, l := c(t)
		p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return d, l })
		p.add(t, "nic0", "mlx5?size=1MiB", "mlx5?size=1MiB")
		p.send.PauseGuest = func(ctx context.Context) error { // while the destination serves the first
			other := open(t, "mlx5?size=1MiB")
			second.report, second.err = reader.Send(ctx, d, []reader.Source{{Name: "nic0", Device: other}}, nil)
			wantState(t, other, vfio.Running)
			if len(other.Log()) != 0 {
				t.Error("the second source was touched")
			}
			return nil
		}
		p.receive.Observe = func(ev migration.Event) {
			if ev.Kind == migration.Warning {
				warned = append(warned, ev.Text)
			}
		}
		p.succeed(t)
		if f := second.fault(t); f.Code != transport.CodeLimit || !f.Remote || second.report.Outcome != migration.Aborted {
			t.Errorf("the second source: %v, %q", second.report.Outcome, f)
		}
		if len(warned) != 1 || !strings.Contains(warned[0], "turned away") {
			t.Errorf("the destination reported %q", warned)
		}
	})
}

// TestTinyChunks: a source that demands tiny chunks costs nothing.
func TestTinyChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := pipe(t)
		h := &hostile{T: t, dialer: d, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}}
		done := make(chan side)
		ctx, cancel := context.WithCancel(t.Context())
		var why error
		go func() {
			sinks := []writer.Target{{Name: "d0", Device: open(t, "mtty")}, {Name: "d1", Device: open(t, "mtty")}}
			r, err := writer.Receive(ctx, l, sinks, &writer.Options{Observe: func(ev migration.Event) {
				if ev.Kind == migration.Refused {
					why = ev.Err
					cancel()
				}
			}})
			done <- side{r, err}
		}()
		early := wire.NewControl(h.dial(wire.LaneControl))
		early.Send(&wire.Estimate{}) // of no device, before there is a migration
		if m, err := early.Receive(); err == nil {
			t.Errorf("a source that begins with ESTIMATE gets %+v", m)
		}
		h.control = wire.NewControl(h.dial(wire.LaneControl))
		hello := h.hello()
		hello.ChunkSize = 1
		h.send(hello)
		if m, ok := h.receive().(*wire.Declined); !ok || m.Code != transport.CodeProtocol {
			t.Errorf("the answer is %+v", h.got)
		}
		h.control.Lane().Close()
		if <-done; !strings.Contains(fmt.Sprint(why), "chunks of 1 bytes") {
			t.Error(why)
		}
	})
}

// slowToFail is a device whose start fails slowly.
type slowToFail struct{ *sim.Device }

func (d slowToFail) SetState(to vfio.State) (vfio.Stream, error) {
	if to == vfio.RunningP2P {
		time.Sleep(10 * time.Second)
		return nil, &vfio.TransitionError{From: vfio.Stop, To: to, Now: vfio.Stop, Err: syscall.EREMOTEIO}
	}
	return d.Device.SetState(to)
}

// TestCancelDuringFailingStart: a cancel that is too late to matter does not hide why the
// start failed.
func TestCancelDuringFailingStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		_, dst := p.add(t, "nic0", "mlx5?size=1MiB", "mlx5?size=1MiB")
		p.sinks[0].Device = slowToFail{dst}
		time.AfterFunc(6*time.Second, p.cancelReceive)
		p.send.DoubtFor = patience
		s, r := p.run(t)
		if f := r.fault(t); f.Code != transport.CodeStart || f.Device != "nic0" || !errors.Is(f, syscall.EREMOTEIO) {
			t.Errorf("receive: %v", f)
		}
		if s.report.Outcome != migration.Aborted || r.report.Outcome != migration.Aborted {
			t.Errorf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
		}
		p.atHome(t)
	})
}

// A device that yields nothing more in STOP_COPY does not keep its guest paused for ever.
func TestStall(t *testing.T) {
	timed(t, false, func(t *testing.T, c carrier) {
		p := newPair(t, c)
		p.add(t, "gpu0", "xe?size=4MiB&fault=hang@1048576", "xe?size=4MiB")
		p.send.StalledAfter = 5 * time.Second
		s, r := p.run(t)
		f := s.fault(t)
		if f.Code != transport.CodeTimeout || f.Remote || f.Device != "gpu0" || f.Offset == 0 || !strings.Contains(f.Error(), "5s") {
			t.Errorf("send: %v", f)
		}
		if f := r.fault(t); f.Code != transport.CodeTimeout || !f.Remote || f.Device != "gpu0" || f.Offset == 0 {
			t.Errorf("receive: %v", f)
		}
		if d := s.report.Downtime; d < 5*time.Second || d > 5500*time.Millisecond {
			t.Errorf("the guest was stopped for %v", d)
		}
		p.wantAborted(t, s, r)
	})
}

// A cancel does not wait until a slow destination has loaded its chunks.
func TestCancelDuringSlowLoad(t *testing.T) {
	timed(t, true, func(t *testing.T, c carrier) {
		p := newPair(t, c)
		p.add(t, "gpu0", "xe?size=15MiB", "xe?size=15MiB&load=5MiB/s")
		began := time.Now()
		time.AfterFunc(time.Second, p.cancelSend)
		s, r := p.run(t)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("cancelled after 1s, ended after %v", took)
		}
		if s.report.Downtime > 1500*time.Millisecond {
			t.Errorf("the guest was stopped for %v, the cancel was at 1s", s.report.Downtime)
		}
		p.wantAborted(t, s, r)
	})
}

// TestSmallState: a state of a few bytes needs one round trip beyond the handshakes, with the
// guest paused: the rest of the state and END, then READY. The sides wait for no tick, no
// heartbeat and no timeout. The handshakes are, from the dial on: the connection, HELLO and
// WELCOME, the data lanes, and COMMIT and RUNNING. If there is a PRE_COPY, the destination
// acknowledges its initial bytes before the switchover.
func TestSmallState(t *testing.T) {
	const trip = 100 * time.Millisecond
	const slack = trip / 20
	sender, receiver := pinned(t)
	for url, trips := range map[string]time.Duration{"mtty": 6, "xe?size=60": 5} {
		synctest.Test(t, func(t *testing.T) {
			v := &simulation{path: simnet.Path{Delay: trip / 2, Rate: 100 << 20, Queue: trip}}
			v.connect(t, 1, sender, receiver)
			p := barePair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return v.dialer, v.listener })
			p.add(t, "d0", url, url)
			p.send.OnLimit, p.send.Codec = reader.Force, codec.Fixed(codec.Raw)
			var began time.Time
			var took time.Duration
			p.send.Observe = func(ev migration.Event) {
				switch {
				case ev.Kind == migration.Phase && ev.Phase == migration.Connect:
					began = time.Now()
				case ev.Kind == migration.Phase && ev.Phase == migration.Running:
					took = time.Since(began)
				}
			}
			s, r := p.run(t)
			if s.err != nil || r.err != nil {
				t.Fatalf("%s: send: %v\nreceive: %v", url, s.err, r.err)
			}
			if got := s.report.Downtime; got < 2*trip || got > 2*trip+slack {
				t.Errorf("%s: the downtime is %v, two round trips are %v", url, got, 2*trip)
			}
			if took < trips*trip || took > trips*trip+slack {
				t.Errorf("%s: it took %v, %d round trips are %v", url, took, trips, trips*trip)
			}
		})
	}
}
