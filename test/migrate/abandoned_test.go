package migrate

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/writer"
)

// again sends RESUME and hangs up at once: the try has lasted longer than the source would
// wait. The destination reads the next one.
func (h *hostile) again() {
	h.Helper()
	for given := range 2 {
		h.lane = h.dial(wire.LaneControl)
		h.control = wire.NewControl(h.lane)
		h.send(&wire.Resume{Attempt: h.attempt, Journal: h.journal, Peer: h.welcome.Journal})
		if _, ok := h.receive().(*wire.Status); !ok {
			h.Fatalf("RESUME is answered by %+v", h.got)
		}
		if given == 0 {
			h.lane.Close()
			time.Sleep(100 * time.Millisecond) // the destination notices it
		}
	}
}

// TestTryAbandoned: a source that abandons a try to reconnect closes its connection, and
// keeps its devices.
func TestTryAbandoned(t *testing.T) {
	for _, at := range []string{"receiving", "ready", "running"} {
		t.Run(at, func(t *testing.T) {
			leavesNothing(t)
			sink, err := file.NewDestination(filepath.Join(t.TempDir(), "state"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			dialer, l := pipe(t)
			done := make(chan side)
			go func() {
				r, err := writer.Receive(t.Context(), l, []writer.Target{{Name: "d0", Device: sink}}, &writer.Options{Memory: 1 << 20, ChunkSize: 4096, ReconnectFor: 10 * time.Second})
				done <- side{r, err}
			}()
			h := (&victim{dialer: dialer}).source(t)
			h.lane = h.dial(wire.LaneControl)
			h.control = wire.NewControl(h.lane)
			hello := h.hello()
			hello.Devices = hello.Devices[:1]
			h.journal = hello.Journal
			h.send(hello)
			h.welcome = h.receive().(*wire.Welcome)
			h.data = h.dial(wire.LaneData)
			sum := wire.NewDigest()
			sum.Add(h.chunk(0, 0, 0))
			for h.applied < 100 {
				h.receiveAck(t)
			}
			if at == "receiving" {
				h.again()
			}
			h.send(&wire.End{Attempt: h.attempt, Bytes: 100, Chunks: 1, Digest: sum.Sum()})
			ready, ok := h.receive().(*wire.Ready)
			if !ok {
				t.Fatalf("the answer to END is %+v", h.got)
			}
			if at == "ready" {
				h.again()
			}
			h.send(&wire.Commit{Attempt: h.attempt, Journal: ready.Journal, Digest: ready.Digest})
			for h.receive(); h.got.Type() == wire.TypeReady; h.receive() {
			}
			if at == "running" {
				h.again()
				h.send(&wire.Commit{Attempt: h.attempt, Journal: ready.Journal, Digest: ready.Digest})
				h.receive()
			}
			if _, ok := h.got.(*wire.Running); !ok {
				t.Errorf("the answer to COMMIT is %+v", h.got)
			}
			h.send(&wire.Fin{Attempt: h.attempt})
			wire.HangUp(h.lane, func() { h.receive() })
			h.data.Close()
			if r := <-done; r.err != nil || r.report.Outcome != migration.Committed {
				t.Errorf("%v, %v", r.report.Outcome, r.err)
			}
		})
	}
}
