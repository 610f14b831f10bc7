package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/test/simnet"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// TestSmallState: a state of a few bytes takes one round trip beyond the handshakes, with the
// guest stopped: what is left and END for READY. Nothing else is waited for, no tick, no
// heartbeat and no patience. The handshakes are, from the dial on: the connection, HELLO for
// WELCOME, the data lanes, and COMMIT for RUNNING. Where there is a PRE_COPY its initial
// bytes have their ACK before the stop.
func TestSmallState(t *testing.T) {
	const trip = 100 * time.Millisecond
	const slack = trip / 20
	sender, receiver := pinned(t)
	for url, trips := range map[string]time.Duration{"mtty": 6, "xe?size=60": 5} {
		synctest.Test(t, func(t *testing.T) {
			v := &voyage{path: simnet.Path{Delay: trip / 2, Rate: 100 << 20, Queue: trip}}
			v.connect(t, 1, sender, receiver)
			p := barePair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return v.dialer, v.listener })
			p.add(t, "d0", url, url)
			p.send.OnLimit, p.send.Codec = reader.Force, codec.Fixed(codec.Raw)
			var began time.Time
			var took time.Duration
			p.send.Observe = func(ev report.Event) {
				switch {
				case ev.Kind == report.Phase && ev.Phase == report.Connect:
					began = time.Now()
				case ev.Kind == report.Phase && ev.Phase == report.Running:
					took = time.Since(began)
				}
			}
			s, r := p.run(t)
			if s.err != nil || r.err != nil {
				t.Fatalf("%s: send: %v\nreceive: %v", url, s.err, r.err)
			}
			if got := s.report.Downtime; got < 2*trip || got > 2*trip+slack {
				t.Errorf("%s: the guest stood still for %v, two round trips are %v", url, got, 2*trip)
			}
			if took < trips*trip || took > trips*trip+slack {
				t.Errorf("%s: it took %v, %d round trips are %v", url, took, trips, trips*trip)
			}
		})
	}
}
