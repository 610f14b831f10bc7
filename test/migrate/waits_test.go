package migrate

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// says has a source send an ESTIMATE at every heartbeat, until the destination hangs up or
// most has passed. It returns the last message of the destination.
func (h *hostile) says(most time.Duration, devices ...wire.DeviceEstimate) wire.Message {
	told := make(chan wire.Message, 1)
	go func() {
		for m := h.receive(); m != nil; m = h.receive() {
		}
		told <- h.got
	}()
	for end := time.Now().Add(most); time.Now().Before(end); {
		h.send(&wire.Estimate{Attempt: h.attempt, Devices: devices})
		select {
		case m := <-told:
			return m
		case <-time.After(wire.Heartbeat):
		}
	}
	h.lane.Close()
	return <-told
}

// TestDestinationWaitsOn: before it has sent a byte, no source ends the destination: neither
// an unfit one, nor a silent one, nor one that leaves. The devices are reset and load the
// next source's state.
func TestDestinationWaitsOn(t *testing.T) {
	const stall, tick = 20 * time.Second, time.Second
	nothing := []wire.DeviceEstimate{{Known: true}, {Known: true}}
	owes := []wire.DeviceEstimate{{Dirty: 1, Known: true}, {Known: true}}
	for _, c := range []struct {
		name string
		do   func(*hostile)
		took time.Duration
		why  string // why the destination ended it, "" if it did not
	}{
		{"another name", func(h *hostile) {
			hello := h.hello()
			hello.Devices[0].Name = "other"
			h.lane = h.dial(wire.LaneControl)
			h.control = wire.NewControl(h.lane)
			h.send(hello)
			if d, ok := h.receive().(*wire.Declined); !ok || d.Code != transport.CodeDevices || d.Journal != (migration.JournalID{}) {
				t.Errorf("the source got %+v", h.got)
			}
		}, 0, "the source has the devices"},
		{"no data lane", func(h *hostile) {
			h.welcomed()
			if d, ok := h.says(time.Hour, nothing...).(*wire.Declined); !ok || d.Code != transport.CodeTimeout {
				t.Errorf("the source got %+v", h.got)
			}
		}, wire.LanesTimeout, "no data lane"},
		{"bytes are left, and none come", func(h *hostile) {
			h.open()
			if d, ok := h.says(time.Hour, owes...).(*wire.Declined); !ok || d.Code != transport.CodeTimeout {
				t.Errorf("the source got %+v", h.got)
			}
		}, stall, "remaining bytes"},
		{"nothing is left", func(h *hostile) {
			h.open()
			if m, ok := h.says(5*time.Minute, nothing...).(*wire.Welcome); !ok {
				t.Errorf("the source got %+v", m)
			}
		}, 5 * time.Minute, ""},
		{"gone after WELCOME", func(h *hostile) {
			h.welcomed()
			h.lane.Close()
		}, 0, "has not reconnected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dialer, l := pipe(t)
				p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return dialer, l })
				p.add(t, "d0", nic, nic)
				p.add(t, "d1", nic, nic)
				p.receive.ChunkSize, p.receive.StalledAfter, p.receive.ReconnectFor = 4096, stall, 5*time.Second
				refused := make(chan error, 1)
				p.receive.Observe = func(ev migration.Event) {
					if ev.Kind == migration.Refused {
						refused <- ev.Err
					}
				}
				received := make(chan side, 1)
				go func() {
					r, err := writer.Receive(t.Context(), l, p.sinks, &p.receive)
					received <- side{r, err}
				}()
				arena, err := wire.NewArena(0, 4096, 1)
				if err != nil {
					t.Fatal(err)
				}
				defer arena.Close()
				h := &hostile{T: t, dialer: dialer, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}, arena: arena}
				began := time.Now()
				c.do(h)
				if took := time.Since(began); took < c.took || took > c.took+tick {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if h.data != nil {
					defer h.data.Close()
				}
				defer h.lane.Close()
				if c.why == "" {
					if r := <-received; r.report.Outcome != migration.Aborted {
						t.Errorf("%v: %v", r.report.Outcome, r.err)
					}
					return
				}
				if why := <-refused; !strings.Contains(why.Error(), c.why) {
					t.Errorf("refused: %v, want %q", why, c.why)
				}
				r, err := p.sendTo(dialer)
				p.committed(t, side{r, err}, <-received)
			})
		})
	}
}

// welcomed is a source that has received WELCOME.
func (h *hostile) welcomed() {
	h.lane = h.dial(wire.LaneControl)
	h.control = wire.NewControl(h.lane)
	h.send(h.hello())
	h.welcome = h.receive().(*wire.Welcome)
}

// resetsSlowly is a device with a slow reset.
type resetsSlowly struct{ vfio.Device }

const slowReset = 500 * time.Millisecond

func (d resetsSlowly) Reset() error {
	time.Sleep(slowReset)
	return d.Device.Reset()
}

// TestNextDuringReset: after a source that left, the destination resets the devices.
// Meanwhile other sources come and leave as well. The destination reports each of them
// with its own reason. It serves failing sources at most once a second.
func TestNextDuringReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialer, l := pipe(t)
		p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return dialer, l })
		p.add(t, "d0", nic, nic)
		p.add(t, "d1", nic, nic)
		p.sinks[0].Device = resetsSlowly{p.dst[0]}
		p.receive.ChunkSize, p.receive.ReconnectFor = 4096, 100*time.Millisecond
		told := 0
		attempts := map[migration.Attempt]bool{}
		p.receive.Observe = func(ev migration.Event) {
			switch ev.Kind {
			case migration.Refused:
				told += 1 + ev.More
				if !attempts[ev.Attempt] {
					t.Errorf("reported %v, which was never sent", ev.Attempt)
				}
			case migration.Warning:
				t.Errorf("warning: %s", ev.Text)
			}
		}
		received := make(chan side, 1)
		go func() {
			r, err := writer.Receive(p.receiveCtx, l, p.sinks, &p.receive)
			received <- side{r, err}
		}()
		var last time.Time
		const sources = 5
		for i := range sources {
			h := &hostile{T: t, dialer: dialer, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}}
			attempts[h.attempt] = true
			h.welcomed()
			if since := time.Since(last); i > 1 && since < time.Second {
				t.Errorf("source %d was served %v after the one before, want a second at least", i, since)
			}
			last = time.Now()
			h.lane.Close()
			time.Sleep(p.receive.ReconnectFor + slowReset/2) // the reset is under way
		}
		time.Sleep(10 * time.Second)
		p.cancelReceive()
		<-received
		if told < sources-1 { // the report of the last may be delayed
			t.Errorf("the destination reported %d sources of %d", told, sources)
		}
	})
}

// TestRefusedWithoutEnd: repeated refusals of a source share a few lines of the log.
func TestRefusedWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialer, l := pipe(t)
		p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return dialer, l })
		p.add(t, "d0", nic, nic)
		lines, more := 0, 0
		p.receive.Observe = func(ev migration.Event) {
			switch ev.Kind {
			case migration.Refused:
				lines, more = lines+1, more+ev.More
			case migration.Peer, migration.Phase, migration.Warning:
				t.Errorf("%+v", ev)
			}
		}
		received := make(chan side, 1)
		go func() {
			r, err := writer.Receive(p.receiveCtx, l, p.sinks, &p.receive)
			received <- side{r, err}
		}()
		const tries = 500
		for i := range tries {
			h := &hostile{T: t, dialer: dialer, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: uint64(i + 1)}}
			h.lane = h.dial(wire.LaneControl)
			h.control = wire.NewControl(h.lane)
			h.send(h.hello()) // of two devices
			if d, ok := h.receive().(*wire.Declined); !ok || d.Code != transport.CodeDevices {
				t.Fatalf("try %d got %+v", i, h.got)
			}
			h.lane.Close()
			time.Sleep(20 * time.Millisecond)
		}
		p.cancelReceive()
		if r := <-received; r.fault(t).Code != transport.CodeCancelled {
			t.Error(r.err)
		}
		if lines < 2 || lines > 8 || lines+more > tries || more < tries/4 {
			t.Errorf("%d lines report %d refusals, of %d", lines, lines+more, tries)
		}
	})
}
