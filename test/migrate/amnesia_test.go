package migrate

import (
	"testing"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// amnesiac is reset, by somebody else, right after it was found complete.
type amnesiac struct{ *sim.Device }

func (a *amnesiac) SetState(to vfio.State) (vfio.Stream, error) {
	stream, err := a.Device.SetState(to)
	if to == vfio.Stop {
		a.Device.Reset()
	}
	return stream, err
}

// quirk31: a reset at the destination after READY leaves RUNNING, and nothing
// to run.
func TestResetAfterReady(t *testing.T) {
	p := newPair(t, pipe)
	_, dst := p.add(t, "nic0", "mlx5?size=4MiB", "mlx5?size=4MiB")
	p.sinks[0].Device = &amnesiac{dst}
	s, r := p.run(t)
	if f := s.fault(t); f.Code != transport.CodeStart || !f.Remote {
		t.Errorf("send: %v", f)
	}
	if s.report.Outcome != handoff.Rolledback || r.report.Outcome != handoff.Rolledback {
		t.Errorf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
	}
	p.atHome(t)
}
