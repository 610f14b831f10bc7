package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// amnesiac is reset from outside right after it was found complete.
type amnesiac struct{ *sim.Device }

func (a *amnesiac) State() (vfio.State, error) {
	now, err := a.Device.State()
	if now == vfio.Stop {
		a.Device.Reset()
	}
	return now, err
}

// quirk31: a reset at the destination after READY leaves the device RUNNING, without a
// state.
func TestResetAfterReady(t *testing.T) {
	p := newPair(t, pipe)
	_, dst := p.add(t, "nic0", "mlx5?size=4MiB", "mlx5?size=4MiB")
	p.sinks[0].Device = &amnesiac{dst}
	s, r := p.run(t)
	if f := s.fault(t); f.Code != transport.CodeStart || !f.Remote {
		t.Errorf("send: %v", f)
	}
	if s.report.Outcome != migration.Aborted || r.report.Outcome != migration.Aborted {
		t.Errorf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
	}
	p.atHome(t)
}

// sleeper is a device that starts slowly.
type sleeper struct{ *sim.Device }

func (s *sleeper) SetState(to vfio.State) (vfio.Stream, error) {
	if to == vfio.RunningP2P {
		time.Sleep(time.Minute)
	}
	return s.Device.SetState(to)
}

// A destination that accepts and does not answer in time leaves the source in doubt, in
// bounded time. The destination may run, and in the end does.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		src, dst := p.add(t, "nic0", "mlx5?size=4MiB", "mlx5?size=4MiB")
		p.sinks[0].Device = &sleeper{dst}
		p.send.DoubtFor = 10 * time.Second
		p.sendCtx, p.receiveCtx = t.Context(), t.Context()
		warned := false
		p.send.Observe = func(ev migration.Event) { warned = warned || ev.Kind == migration.Warning }
		s, r := p.run(t)
		if s.report.Outcome != migration.InDoubt || s.fault(t).Code != transport.CodeTimeout || !warned {
			t.Errorf("source: %v (%v), warned %v", s.report.Outcome, s.err, warned)
		}
		if r.report.Outcome != migration.Committed {
			t.Errorf("destination: %v (%v)", r.report.Outcome, r.err)
		}
		wantState(t, src, vfio.StopCopy)
		wantState(t, dst, vfio.Running)
	})
}
