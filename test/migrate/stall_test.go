package migrate

import (
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport"
)

// A device that gives nothing more in STOP_COPY does not keep its guest stopped
// for ever.
func TestStall(t *testing.T) {
	timed(t, false, func(t *testing.T, c carrier) {
		p := newPair(t, c)
		p.add(t, "gpu0", "xe?size=4MiB&fault=hang@1048576", "xe?size=4MiB")
		p.send.StallLimit = 5 * time.Second
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
		p.rolledBack(t, s, r)
	})
}

// A cancel does not wait until a slow destination has loaded what it holds.
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
			t.Errorf("the guest was stopped for %v, the cancel came after 1s", s.report.Downtime)
		}
		p.rolledBack(t, s, r)
	})
}
