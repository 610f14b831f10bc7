package migrate

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// waiting is a destination that serves preflights.
type waiting struct {
	*pair
	dialer transport.Dialer
	done   chan side

	mu    sync.Mutex
	asked []migration.Event // the reported preflights
}

// wait has the destination of a pair wait for sources.
func wait(t testing.TB, p *pair) *waiting {
	w := &waiting{pair: p, done: make(chan side, 1)}
	d, l := p.carrier(t)
	w.dialer = d
	p.receive.Observe = func(ev migration.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if ev.Kind == migration.Asked {
			w.asked = append(w.asked, ev)
		}
	}
	go func() {
		r, err := writer.Receive(p.receiveCtx, l, p.sinks, &p.receive)
		w.done <- side{r, err}
	}()
	return w
}

func (w *waiting) preflight() (migration.Preflight, error) {
	return reader.Preflight(w.sendCtx, w.dialer, w.sources, &w.send)
}

// told returns the verdicts that the destination has reported.
func (w *waiting) told() []migration.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// migrate is the migration that the destination still has to serve.
func (w *waiting) migrate(t *testing.T) {
	t.Helper()
	r, err := w.sendTo(w.dialer)
	s, d := side{r, err}, <-w.done
	if s.err != nil || d.err != nil {
		t.Fatalf("send: %v\nreceive: %v", s.err, d.err)
	}
	w.committed(t, s, d)
}

func (w *waiting) untouched(t *testing.T) {
	t.Helper()
	for i := range w.src {
		if n := len(w.src[i].Log()) + len(w.dst[i].Log()); n > 0 {
			t.Errorf("device %d was touched: %d events", i, n)
		}
	}
}

// TestPreflight: a preflight measures and predicts. It touches no device, may be repeated,
// and uses up no attempt.
func TestPreflight(t *testing.T) {
	for name, carry := range map[string]carrier{"pipe": pipe, "quic": overQUIC, "unix": unixCarrier} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, carry)
			p.add(t, "d0", "mlx5?size=5MiB", "mlx5?size=5MiB")
			p.add(t, "d1", "xe?size=3MiB", "xe?size=3MiB")
			p.send.Lanes = 3
			w := wait(t, p)
			for range 2 {
				got, err := w.preflight()
				if err != nil {
					t.Fatal(err)
				}
				checkPreflight(t, got)
			}
			w.untouched(t)
			w.migrate(t)
			if told := w.told(); len(told) != 2 || told[0].Err != nil || told[1].Err != nil {
				t.Errorf("the destination reported %v", told)
			}
		})
	}
}

func checkPreflight(t *testing.T, got migration.Preflight) {
	t.Helper()
	if got.Lanes != 3 || got.Version != wire.Version || got.ChunkSize != 1<<20 || len(got.Codecs) == 0 {
		t.Errorf("terms: %+v", got)
	}
	if got.RTT <= 0 || got.RTT > time.Second || got.Rate < 1e5 || got.Probed == 0 || got.Probed > wire.MaxProbe {
		t.Errorf("path: round trip %v, %.0f bytes/s, of %d bytes", got.RTT, got.Rate, got.Probed)
	}
	if got.Downtime.Known || got.Downtime.Took < got.RTT || !got.Commit.Known || got.Total.Took <= got.Downtime.Took {
		t.Errorf("prediction: %+v", got.Prediction)
	}
	mlx5, xe := got.Devices[0], got.Devices[1]
	if mlx5.Name != "d0" || !mlx5.PreCopy || !mlx5.Sized || mlx5.Size == 0 || mlx5.Wire.Known || mlx5.Precopy.Took == 0 {
		t.Errorf("with PRE_COPY: %+v", mlx5)
	}
	if xe.Name != "d1" || xe.PreCopy || xe.Precopy.Took != 0 || xe.Sized && xe.Wire.Took == 0 {
		t.Errorf("without: %+v", xe)
	}
}

// TestPreflightRefused: a preflight is refused by the rules of a migration, and the
// destination waits on.
func TestPreflightRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*testing.T, *pair)
		mend func(*pair)
		code transport.Code
	}{
		{"other names", func(t *testing.T, p *pair) { p.add(t, "d0", nic, nic); p.sources[0].Name = "x" }, func(p *pair) { p.sources[0].Name = "d0" }, transport.CodeDevices},
		{"busy", func(t *testing.T, p *pair) {
			_, dst := p.add(t, "d0", nic, nic)
			if _, err := dst.SetState(vfio.PreCopy); err != nil {
				t.Fatal(err)
			}
		}, func(p *pair) { p.dst[0].SetState(vfio.Running) }, transport.CodeBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, pipe)
				c.make(t, p)
				w := wait(t, p)
				_, err := w.preflight()
				if f := (side{err: err}).fault(t); f.Code != c.code || !f.Remote {
					t.Errorf("%v: %v", f.Code, f)
				}
				synctest.Wait()
				if told := w.told(); len(told) != 1 || transport.CodeOf(told[0].Err) != c.code {
					t.Errorf("the destination reported %v", told)
				}
				c.mend(p)
				w.migrate(t)
			})
		})
	}
}

// A source that does not run is refused before it dials.
func TestPreflightOfStoppedSource(t *testing.T) {
	p := newPair(t, pipe)
	src, _ := p.add(t, "d0", nic, nic)
	if _, err := src.SetState(vfio.Stop); err != nil {
		t.Fatal(err)
	}
	_, err := reader.Preflight(p.sendCtx, nil, p.sources, nil)
	if f := (side{err: err}).fault(t); f.Code != transport.CodeDevice || f.Device != "d0" {
		t.Error(f)
	}
}

// TestPreflightDuringMigration: the destination refuses it like any second source.
func TestPreflightDuringMigration(t *testing.T) {
	timed(t, true, func(t *testing.T, carry carrier) {
		p := newPair(t, carry)
		p.add(t, "d0", slow, slow)
		w := wait(t, p)
		got := make(chan error, 1)
		p.send.Observe = when(migration.PreCopy, 0, func() {
			go func() { // the destination's answer ends it
				_, err := reader.Preflight(w.sendCtx, w.dialer, w.sources, nil)
				got <- err
			}()
		})
		w.migrate(t)
		if f := (side{err: <-got}).fault(t); f.Code != transport.CodeLimit && f.Code != transport.CodeDevice {
			t.Errorf("%v: %v", f.Code, f)
		}
	})
}

// TestMigrationDuringPreflight: the destination serves it at once.
func TestMigrationDuringPreflight(t *testing.T) {
	timed(t, true, func(t *testing.T, carry carrier) {
		p := newPair(t, carry)
		p.add(t, "d0", nic, nic)
		w := wait(t, p)
		h := w.hostile(t)
		h.open()
		second := w.hostile(t)
		second.open()
		if d, ok := second.got.(*wire.Declined); !ok || d.Code != transport.CodeLimit {
			t.Errorf("a second preflight got %+v", second.got)
		}
		w.migrate(t)
	})
}

// prober is a hostile preflight, written by hand.
type prober struct {
	*hostile
	pair *pair
}

func (w *waiting) hostile(t *testing.T) *prober {
	return &prober{&hostile{T: t, dialer: w.dialer, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}}, w.pair}
}

// dialControl opens the lane, and sends nothing.
func (h *prober) dialControl() {
	h.lane = h.dial(wire.LanePreflight)
	h.control = wire.NewControl(h.lane)
}

// open has a preflight begin.
func (h *prober) open() {
	h.dialControl()
	m := h.hello()
	m.Devices = []wire.DeviceOffer{{Name: "d0", Flags: h.pair.src[0].Features().MigrationFlags()}}
	h.send(m)
	h.receive()
}

// flood fills a probe lane until the destination has enough.
func (h *prober) flood() {
	lane := h.dial(wire.LaneProbe)
	for block := make([]byte, 1<<20); ; {
		if _, err := lane.Write(block); err != nil {
			return
		}
	}
}

// TestHostilePreflight: for every message of the source, the preflight ends, no device
// is touched, and the next preflight and the migration are served.
func TestHostilePreflight(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*prober)
		code transport.Code // of DECLINED; 0 if none is due
	}{
		{"says nothing", func(h *prober) { h.dialControl() }, transport.CodeTimeout},
		{"never ends", func(h *prober) { h.open(); h.dial(wire.LaneProbe) }, transport.CodeTimeout},
		{"asks for ever", func(h *prober) {
			for h.open(); ; time.Sleep(time.Millisecond) {
				h.send(&wire.Query{Attempt: h.attempt})
				if _, ok := h.receive().(*wire.Status); !ok {
					return
				}
			}
		}, transport.CodeTimeout},
		{"asks and does not listen", func(h *prober) {
			for h.open(); h.control.Send(&wire.Query{Attempt: h.attempt}) == nil; {
			}
		}, 0},
		{"sends more than it may", func(h *prober) { h.open(); h.flood() }, transport.CodeLimit},
		{"probes before HELLO", func(h *prober) { h.dialControl(); h.flood(); h.lane.Close() }, 0},
		{"more lanes than agreed", func(h *prober) {
			h.open()
			h.dial(wire.LaneProbe)
			if n, err := h.dial(wire.LaneProbe).Read(make([]byte, 1)); n > 0 || err == nil {
				h.Error("a second probe lane was taken")
			}
			h.lane.Close()
		}, 0},
		{"another attempt's probe", func(h *prober) {
			h.open()
			mine := h.attempt
			h.attempt.Epoch++
			h.flood()
			h.attempt = mine
			h.lane.Close()
		}, 0},
		{"HELLO twice", func(h *prober) { h.open(); h.send(h.hello()) }, transport.CodeProtocol},
		{"HELLO of another attempt", func(h *prober) {
			h.dialControl()
			m := h.hello()
			m.Epoch++
			h.send(m)
		}, transport.CodeProtocol},
		{"COMMIT", func(h *prober) { h.open(); h.send(&wire.Commit{Attempt: h.attempt}) }, transport.CodeProtocol},
		{"begins with ABORT", func(h *prober) { h.dialControl(); h.send(&wire.Abort{Attempt: h.attempt}) }, transport.CodeProtocol},
		{"noise", func(h *prober) { h.dialControl(); h.lane.Write(make([]byte, 12)) }, transport.CodeCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { againstPreflight(t, c.do, c.code) })
		})
	}
}

func againstPreflight(t *testing.T, do func(*prober), code transport.Code) {
	p := newPair(t, pipe)
	p.add(t, "d0", nic, nic)
	w := wait(t, p)
	h := w.hostile(t)
	do(h)
	for m := h.receive(); m != nil; m = h.receive() {
	}
	d, _ := h.got.(*wire.Declined)
	if code != 0 && (d == nil || d.Code != code) {
		t.Errorf("the source got %+v, want DECLINED(%v)", h.got, code)
	}
	h.lane.Close()
	synctest.Wait()
	w.untouched(t)
	if _, err := w.preflight(); err != nil {
		t.Error("the next preflight: ", err)
	}
	w.migrate(t)
}

// TestPreflightToLiar: the source detects an impossible answer, and does not wait for ever
// for a missing one.
func TestPreflightToLiar(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(m wire.Message) wire.Message
		code   transport.Code
	}{
		{"silent", func(wire.Message) wire.Message { return nil }, transport.CodeTimeout},
		{"silent to QUERY", func(m wire.Message) wire.Message { return welcomed(m, nil) }, transport.CodeTimeout},
		{"STATUS for WELCOME", func(m wire.Message) wire.Message { return &wire.Status{Attempt: *m.About()} }, transport.CodeProtocol},
		{"another attempt", func(m wire.Message) wire.Message { return &wire.Status{} }, transport.CodeProtocol},
		{"no lanes", func(m wire.Message) wire.Message {
			return &wire.Welcome{Attempt: *m.About(), Version: 1, ChunkSize: 4096, Windows: make([]wire.Window, 1)}
		}, transport.CodeProtocol},
		{"more than was sent", func(m wire.Message) wire.Message {
			return welcomed(m, &wire.Status{Attempt: *m.About(), Received: wire.MaxProbe + 1})
		}, transport.CodeProtocol},
		{"declined in the middle", func(m wire.Message) wire.Message {
			return welcomed(m, &wire.Declined{Attempt: *m.About(), Code: transport.CodeLimit, Text: "enough"})
		}, transport.CodeLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leavesNothing(t)
				d, l := pipe(t)
				ctx, cancel := context.WithCancel(t.Context())
				go pretend(ctx, l, c.answer) // cancel ends it
				begun := time.Now()
				_, err := reader.Preflight(t.Context(), d, []reader.Source{{Name: "d0", Device: open(t, nic)}}, nil)
				if f := (side{err: err}).fault(t); f.Code != c.code {
					t.Errorf("%v: %v", f.Code, f)
				}
				if took := time.Since(begun); took > wire.PreflightTimeout+2*time.Second {
					t.Errorf("it took %v", took)
				}
				cancel()
			})
		})
	}
}

// TestPreflightCancelled ends at once.
func TestPreflightCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leavesNothing(t)
		d, l := pipe(t)
		go pretend(t.Context(), l, func(wire.Message) wire.Message { return nil })
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errors.New("no more")) })
		begun := time.Now()
		_, err := reader.Preflight(ctx, d, []reader.Source{{Name: "d0", Device: open(t, nic)}}, nil)
		if f := (side{err: err}).fault(t); f.Code != transport.CodeCancelled || time.Since(begun) > 3*time.Second {
			t.Errorf("%v after %v", f, time.Since(begun))
		}
	})
}

// welcomed accepts a HELLO, and replies to any other message with answer.
func welcomed(m, answer wire.Message) wire.Message {
	h, ok := m.(*wire.Hello)
	if !ok {
		return answer
	}
	return &wire.Welcome{Attempt: h.Attempt, Version: 1, ChunkSize: h.ChunkSize, Lanes: 1, Codecs: h.Codecs, Windows: make([]wire.Window, len(h.Devices))}
}

// pretend is a destination that replies with answer, and reads nothing of a probe.
func pretend(ctx context.Context, l transport.Listener, answer func(wire.Message) wire.Message) {
	lane, err := l.Accept(ctx)
	if err != nil {
		return
	}
	defer lane.Close()
	if _, err := wire.ReadPreamble(lane); err != nil {
		return
	}
	for control := wire.NewControl(lane); ; {
		m, err := control.Receive()
		if err != nil {
			return
		}
		if a := answer(m); a != nil && control.Send(a) != nil {
			return
		}
	}
}

// TestPreflightToOlderDestination: a destination without preflights closes every lane of an
// unknown kind. The user's error names that reason.
func TestPreflightToOlderDestination(t *testing.T) {
	eachCarrier(t, func(t *testing.T, carry carrier) {
		leavesNothing(t)
		d, l := carry(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for {
				lane, err := l.Accept(ctx)
				if err != nil {
					return
				}
				wire.ReadPreamble(lane)
				lane.Close()
			}
		}()
		_, err := reader.Preflight(t.Context(), d, []reader.Source{{Name: "d0", Device: open(t, nic)}}, &reader.Options{ConnectFor: time.Second})
		if f := (side{err: err}).fault(t); f.Code != transport.CodeNetwork || !strings.Contains(f.Error(), "knows no preflights") {
			t.Errorf("%v: %v", f.Code, f)
		}
	})
}

// TestPreflightAsksAgain: the source asks a destination again that hangs up before WELCOME,
// once or for a while.
func TestPreflightAsksAgain(t *testing.T) {
	for _, times := range []int{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			leavesNothing(t)
			d, l := pipe(t)
			p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return d, &hangsUp{Listener: l, times: times} })
			p.add(t, "d0", nic, nic)
			w := wait(t, p)
			if _, err := w.preflight(); err != nil {
				t.Errorf("%d lanes were closed: %v", times, err)
			}
			w.untouched(t)
			p.cancelReceive()
			<-w.done
		})
	}
}

// hangsUp closes the first lanes.
type hangsUp struct {
	transport.Listener
	times int
}

func (l *hangsUp) Accept(ctx context.Context) (transport.Lane, error) {
	for {
		lane, err := l.Listener.Accept(ctx)
		if err != nil || l.times == 0 {
			return lane, err
		}
		l.times--
		lane.Close()
	}
}
