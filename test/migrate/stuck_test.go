package migrate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// TestPeerThatDoesNotListen: a peer that answers and then takes no control
// message any more must not keep a side from being cancelled.
func TestPeerThatDoesNotListen(t *testing.T) {
	t.Run("destination", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d, listener := pipe(t)
			l := &liar{T: t, listener: listener, journal: transport.NewJournalID()}
			src := open(t, "mlx5?size=4MiB")
			go func() {
				l.open()
				l.send(l.welcome())
				l.accept()
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			report, err := reader.Send(ctx, d, []reader.Source{{Name: "d0", Device: src}}, &reader.Options{ChunkSize: 4096, Lanes: 1})
			if report.Outcome != handoff.Rolledback || err == nil {
				t.Errorf("outcome %v (%v)", report.Outcome, err)
			}
			wantState(t, src, vfio.Running)
		})
	})
	t.Run("source", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d, listener := pipe(t)
			h := &hostile{T: t, dialer: d, attempt: transport.Attempt{Mig: transport.NewMigID(), Epoch: 1}}
			sinks := []writer.Sink{{Name: "d0", Device: &taker{Device: open(t, "mtty")}}, {Name: "d1", Device: &taker{Device: open(t, "mtty")}}}
			go h.open()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			report, err := writer.Receive(ctx, listener, sinks, nil)
			if report.Outcome != handoff.Rolledback || err == nil {
				t.Errorf("outcome %v (%v)", report.Outcome, err)
			}
		})
	})
}
