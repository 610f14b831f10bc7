package migrate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/test/simnet"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// scripted is a simulation whose network the test controls.
type scripted struct {
	*simulation
	told []string // the source's events: path-lost and path-restored
}

// newScripted has one device of 4 MiB, two data lanes and a path of 8 MiB/s with a round
// trip of 2 ms.
func newScripted(t *testing.T) *scripted {
	sender, receiver := pinned(t)
	s := &scripted{simulation: &simulation{pair: barePair(t, nil), path: simnet.Path{Delay: time.Millisecond, Rate: 8 << 20, Queue: 200 * time.Millisecond}}}
	s.sendCtx = t.Context()
	s.receiveCtx, s.cancelReceive = context.WithCancel(t.Context())
	s.urls = []string{"mlx5?size=4MiB&dirty=64KiB/s"}
	s.add(t, "d0", s.urls[0], s.urls[0])
	s.send.Codec = codec.Fixed(codec.Raw)
	s.send.ChunkSize, s.send.Memory, s.receive.Memory, s.send.Lanes = 64<<10, 1<<20, 1<<20, 2
	s.send.OnLimit, s.send.DowntimeTarget, s.send.ResumeAfter = reader.Force, 2*time.Second, 30*time.Second
	s.resends, s.receive.ReconnectFor = true, time.Minute
	s.send.Observe = s.note
	s.receive.Observe = func(migration.Event) {}
	s.connect(t, 1, sender, receiver)
	return s
}

func (s *scripted) note(ev migration.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ev.Kind == migration.Lost || ev.Kind == migration.Restored {
		s.told = append(s.told, string(ev.Kind))
	}
}

// on runs do when the source is in a phase.
func (s *scripted) on(phase string, do func()) {
	s.send.Observe = func(ev migration.Event) {
		s.note(ev)
		if ev.Kind == migration.Phase && ev.Phase == phase {
			do()
		}
	}
}

// cutLane loses every packet of the source's n-th socket. The first socket is the control
// lane's.
func (s *scripted) cutLane(n int) {
	lane := netip.AddrPortFrom(sourceHost, uint16(1025+n))
	s.net.Cut(func(from, to netip.AddrPort) bool { return from == lane || to == lane })
}

// commits runs the migration, in virtual time, and returns its duration.
func (s *scripted) commits(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	s.run(t)
	if s.s.err != nil || s.r.err != nil {
		t.Fatalf("send: %v\nreceive: %v", s.s.err, s.r.err)
	}
	s.committed(t, s.s, s.r)
	s.oneRuns(t)
	return s.ended.Sub(began)
}

// TestLaneLost: if one data lane dies, the source only sends its chunks again.
func TestLaneLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.on(migration.PreCopy, func() { time.AfterFunc(100*time.Millisecond, func() { s.cutLane(1) }) })
		took := s.commits(t)
		if len(s.told) > 0 {
			t.Errorf("the source reported %v", s.told)
		}
		if d := s.s.report.Devices[0]; d.WireBytes == d.Bytes {
			t.Error("nothing was sent again")
		}
		if took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// TestControlLost: the control lane alone dies. The data lanes continue meanwhile, within
// the windows.
func TestControlLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.on(migration.PreCopy, func() { time.AfterFunc(100*time.Millisecond, func() { s.cutLane(0) }) })
		s.commits(t)
		if got := strings.Join(s.told, " "); got != "path-lost path-restored" {
			t.Errorf("the source reported %q", got)
		}
	})
}

// TestCutInStopCopy: a cut adds to the downtime, but not more than necessary. The sides
// notice it after IdleTimeout, and reconnect soon after the network is back.
func TestCutInStopCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const length = 6 * time.Second
		s := newScripted(t)
		s.on(migration.StopCopy, func() {
			s.net.Cut(simnet.All)
			time.AfterFunc(length, func() { s.net.Cut(nil) })
		})
		s.commits(t)
		if down := s.s.report.Downtime; down < length || down > length+1500*time.Millisecond {
			t.Errorf("a cut of %v has cost %v of downtime", length, down)
		}
	})
}

// TestCutTooLong: at ResumeAfter the guest runs on, in any state of the destination.
func TestCutTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.send.ResumeAfter = 5 * time.Second
		s.on(migration.StopCopy, func() { s.net.Cut(simnet.All) })
		s.run(t)
		s.net.Cut(nil)
		if s.s.report.Outcome != migration.Aborted || s.r.report.Outcome != migration.Aborted {
			t.Errorf("outcomes %v (%v) and %v (%v)", s.s.report.Outcome, s.s.err, s.r.report.Outcome, s.r.err)
		}
		if down := s.s.report.Downtime; down < 5*time.Second || down > 5*time.Second+2*100*time.Millisecond {
			t.Errorf("the downtime is %v", down)
		}
		wantState(t, s.src[0], vfio.Running)
	})
}

// TestReconnectFor: before the decision, neither side waits for the other for longer than
// its ReconnectFor, and the guest is not paused meanwhile.
func TestReconnectFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.send.ReconnectFor, s.receive.ReconnectFor = 10*time.Second, 20*time.Second
		var lost time.Time
		s.on(migration.PreCopy, func() {
			time.AfterFunc(100*time.Millisecond, func() { lost = time.Now(); s.net.Cut(simnet.All) })
		})
		s.run(t)
		if took := s.ended.Sub(lost); took < 10*time.Second || took > 14*time.Second {
			t.Errorf("the source has waited for %v", took)
		}
		if took := time.Since(lost); took < 20*time.Second || took > 24*time.Second {
			t.Errorf("the destination has waited for %v", took)
		}
		if s.s.report.Downtime > 0 || s.s.report.Outcome != migration.Aborted || s.r.report.Outcome != migration.Aborted {
			t.Errorf("%v with %v of downtime, %v", s.s.report.Outcome, s.s.report.Downtime, s.r.report.Outcome)
		}
	})
}

// TestReadyHolds: a complete copy survives any silence of its source, and is still there
// when the source reconnects.
func TestReadyHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.send.ResumeAfter, s.send.StalledAfter = time.Hour, time.Hour
		s.receive.ReconnectFor, s.send.ReconnectFor = time.Second, time.Hour
		s.receive.Journals = always(gate{handoff.NewMemory(), handoff.Ready, func() {
			s.net.Cut(simnet.All)
			time.AfterFunc(10*time.Minute, func() { s.net.Cut(nil) })
		}})
		var warned []string
		s.receive.Observe = func(ev migration.Event) {
			if ev.Kind == migration.Warning {
				warned = append(warned, ev.Text)
			}
		}
		s.commits(t)
		if len(warned) != 1 || !strings.Contains(warned[0], "complete copy") {
			t.Errorf("the destination reported %q", warned)
		}
	})
}

// TestNextAttemptEndsTheOne: a source has aborted, and its ABORT is lost. It tries again. The
// destination, which waits for it, serves the new attempt.
func TestNextAttemptEndsTheOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.send.ResumeAfter = 5 * time.Second
		journal := handoff.NewMemory()
		s.send.Journal = journal
		done := make(chan side, 1)
		here := handoff.NewMemory()
		s.receive.Journals = always(here)
		s.on(migration.StopCopy, func() { s.net.Cut(simnet.All) })
		go func() {
			r, err := writer.Receive(s.receiveCtx, s.listener, s.sinks, &s.receive)
			done <- side{r, err}
		}()
		s.send.Attempt = migration.Attempt{Mig: migration.NewID(), Epoch: 1}
		if r, err := s.sendTo(s.dialer); r.Outcome != migration.Aborted {
			t.Fatalf("%v: %v", r.Outcome, err)
		}
		s.net.Cut(nil)
		s.send.Observe = s.note
		s.send.Attempt.Epoch = 2
		r, err := s.sendTo(s.dialer)
		s.committed(t, side{r, err}, <-done)
		var records []string
		for _, e := range here.Entries() {
			records = append(records, e.Record.String())
		}
		if got := strings.Join(records, " "); got != "OPEN ABORTED OPEN READY ACCEPT RUNNING DONE" {
			t.Errorf("the destination has recorded %s", got)
		}
	})
}

// TestOnlyCopyIsSpared: after a restart of its host, a source finds its attempt open and
// its devices running without their guest. It leaves a complete copy alone until a person
// insists.
func TestOnlyCopyIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.send.ResumeAfter = 5 * time.Second
		var cut sync.Once
		s.receive.Journals = always(gate{handoff.NewMemory(), handoff.Ready, func() { cut.Do(func() { s.net.Cut(simnet.All) }) }})
		done := make(chan side, 1)
		go func() {
			r, err := writer.Receive(s.receiveCtx, s.listener, s.sinks, &s.receive)
			done <- side{r, err}
		}()
		s.send.Attempt = migration.Attempt{Mig: migration.NewID(), Epoch: 1}
		if r, err := s.sendTo(s.dialer); r.Outcome != migration.Aborted {
			t.Fatalf("%v: %v", r.Outcome, err)
		}
		wantState(t, s.dst[0], vfio.Stop) // READY
		left := handoff.NewMemory()       // as if the process had ended after OPEN
		left.Append(handoff.Entry{Record: handoff.Open, Attempt: s.send.Attempt, Journal: left.ID()})
		s.send.Journal, s.send.Attempt.Epoch = left, 2
		if r, err := s.sendTo(s.dialer); r.Outcome != migration.Aborted || transport.CodeOf(err) != transport.CodeNetwork {
			t.Errorf("out of reach: %v, %v", r.Outcome, err)
		}
		s.net.Cut(nil)
		if r, err := s.sendTo(s.dialer); r.Outcome != migration.InDoubt || !errors.Is(err, reader.ErrOnlyCopy) {
			t.Errorf("%v, %v", r.Outcome, err)
		}
		if got := written(left); got != "OPEN" {
			t.Errorf("the source has recorded %s", got)
		}
		wantState(t, s.dst[0], vfio.Stop)
		s.send.StartOver = true
		r, err := s.sendTo(s.dialer)
		if err != nil {
			s.cancelReceive()
			t.Error(err)
		}
		s.committed(t, side{r, err}, <-done)
	})
}

// TestDataLanesLost: the source waits for a bounded time for a destination that answers, but
// that no data lane reaches any more.
func TestDataLanesLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t)
		s.send.ReconnectFor, s.receive.ReconnectFor = 10*time.Second, 10*time.Second
		control := netip.AddrPortFrom(sourceHost, 1025)
		s.on(migration.PreCopy, func() {
			time.AfterFunc(100*time.Millisecond, func() {
				s.net.Cut(func(from, to netip.AddrPort) bool { return from != control && to != control })
			})
		})
		s.run(t)
		if s.s.report.Outcome != migration.Aborted || transport.CodeOf(s.s.err) != transport.CodeNetwork || s.r.report.Outcome != migration.Aborted {
			t.Errorf("%v (%v) and %v (%v)", s.s.report.Outcome, s.s.err, s.r.report.Outcome, s.r.err)
		}
		if f, ok := s.r.err.(*transport.Fault); !ok || !f.Remote {
			t.Errorf("the destination got nothing: %v", s.r.err)
		}
	})
}

// narrowPayload is the longest datagram that old connections can still send. A heartbeat is
// shorter, and a datagram of data is longer.
const narrowPayload = 1000

// TestPathNarrows: the MTU of the path shrinks without a message. Small packets pass, so
// every connection lives but carries no data. New connections do.
func TestPathNarrows(t *testing.T) {
	for _, c := range []struct {
		name    string
		phase   string
		device  string
		devices int
	}{
		// The data lanes are dead and the control lane is not.
		{"while the guest runs", migration.PreCopy, "mlx5?size=4MiB&dirty=64KiB/s", 1},
		{"during the switchover", migration.StopCopy, "xe?size=4MiB", 1},
		// ACK and ESTIMATE of many devices are long: the control lane is dead as well.
		{"for long messages too", migration.StopCopy, "xe?size=64KiB", 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			took, down := make([]time.Duration, 2), make([]time.Duration, 2)
			for i, most := range []int{0, narrowPayload} {
				synctest.Test(t, func(t *testing.T) {
					s := newScripted(t)
					s.sources, s.sinks, s.src, s.dst, s.urls = nil, nil, nil, nil, nil
					for n := range c.devices {
						s.add(t, fmt.Sprintf("d%d", n), c.device, c.device)
					}
					s.on(c.phase, func() { time.AfterFunc(50*time.Millisecond, func() { s.net.Narrow(most) }) })
					took[i] = s.commits(t)
					down[i] = s.s.report.Downtime
				})
			}
			if more := took[1] - took[0]; more < time.Second || more > 3*time.Second {
				t.Errorf("the narrow path has cost %v of %v", more, took[1])
			}
			if more := down[1] - down[0]; more > 3*time.Second {
				t.Errorf("the narrow path has cost %v of downtime", more)
			}
		})
	}
}
