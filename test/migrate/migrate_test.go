// Package migrate tests whole migrations inside one process: reader.Send and
// writer.Receive over the in-memory carrier and over QUIC.
package migrate

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// side is what one side of a migration came to.
type side struct {
	report report.Report
	err    error
}

// pair is a migration to be run.
type pair struct {
	sources []reader.Source
	sinks   []writer.Sink
	send    reader.Options
	receive writer.Options
	carrier func(testing.TB) (transport.Dialer, transport.Listener)
}

func pipe(t testing.TB) (transport.Dialer, transport.Listener) {
	d, l := transport.Pipe()
	t.Cleanup(func() { l.Close() })
	return d, l
}

// add adds a simulated device on both sides.
func (p *pair) add(t testing.TB, name, source, sink string) (src, dst *sim.Device) {
	src, dst = open(t, source), open(t, sink)
	p.sources = append(p.sources, reader.Source{Name: name, Device: src})
	p.sinks = append(p.sinks, writer.Sink{Name: name, Device: dst})
	return src, dst
}

func open(t testing.TB, url string) *sim.Device {
	t.Helper()
	d, err := sim.OpenURL(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// run runs both sides to their ends.
func (p *pair) run(t testing.TB, ctx context.Context) (send, receive side) {
	t.Helper()
	carrier := p.carrier
	if carrier == nil {
		carrier = pipe
	}
	dialer, listener := carrier(t)
	done := make(chan side)
	go func() {
		r, err := writer.Receive(ctx, listener, p.sinks, &p.receive)
		done <- side{r, err}
	}()
	r, err := reader.Send(ctx, dialer, p.sources, &p.send)
	return side{r, err}, <-done
}

func wantState(t testing.TB, d vfio.Device, want vfio.State) {
	t.Helper()
	if got, err := d.State(); err != nil || got != want {
		t.Errorf("device is in %v (%v), want %v", got, err, want)
	}
}

func TestEveryProfile(t *testing.T) {
	for _, profile := range []string{"mlx5?size=64MiB", "virtio?size=1MiB", "hisi_acc", "qat", "pds", "xe?size=64MiB", "mtty", "vgpu?size=64MiB"} {
		t.Run(profile, func(t *testing.T) {
			var p pair
			src, dst := p.add(t, "d0", profile, profile)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s, r := p.run(t, ctx)
			if s.err != nil || r.err != nil {
				t.Fatalf("send: %v\nreceive: %v", s.err, r.err)
			}
			if s.report.Outcome != handoff.Committed || r.report.Outcome != handoff.Committed {
				t.Fatalf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
			}
			a, b := s.report.Devices[0], r.report.Devices[0]
			if a.Digest != b.Digest || a.Bytes != b.Bytes || a.Bytes == 0 {
				t.Errorf("source %+v\ndestination %+v", a, b)
			}
			if err := dst.Verify(); err != nil {
				t.Error(err)
			}
			wantState(t, src, vfio.Stop)
			wantState(t, dst, vfio.Running)
			t.Logf("%+v", s.report)
		})
	}
}
