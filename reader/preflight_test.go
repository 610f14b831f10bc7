package reader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

func TestRateOf(t *testing.T) {
	for _, c := range []struct {
		name string
		seen []arrival
		want float64
	}{
		{"nothing arrived", []arrival{{0, 0}, {time.Second, 0}}, 0},
		{"one look", []arrival{{0, 100}}, 0},
		{"all at once", []arrival{{0, 0}, {100 * ms, 100}}, 1000},
		{"slow start", []arrival{{0, 0}, {100 * ms, 1}, {200 * ms, 20}, {300 * ms, 40}, {600 * ms, 100}}, 200},
	} {
		if got := arrivalRate(c.seen); got != c.want {
			t.Errorf("%s: %v bytes per second, want %v", c.name, got, c.want)
		}
	}
}

// TestReach checks that a destination which ends the connection is dialled again until the limit,
// whether it ends it in the handshake or after the preamble. Other errors are final.
func TestReach(t *testing.T) {
	final := errors.New("no")
	for _, c := range []struct {
		name  string
		err   error
		times int // that it fails before it succeeds
		want  error
		took  time.Duration
	}{
		{"at once", nil, 0, nil, 0},
		{"hangs up", transport.ErrHungUp, 3, nil, 3 * lanePause},
		{"gone under the preamble", transport.ErrLost, 3, nil, 3 * lanePause},
		{"always gone", transport.ErrLost, 1 << 20, transport.ErrLost, connectLimit},
		{"final", final, 1, final, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, n := time.Now(), 0
			_, err := reach(t.Context(), connectLimit, func(ctx context.Context) (transport.Lane, error) {
				if n++; n <= c.times {
					return nil, c.err
				}
				return nil, nil
			})
			if took := time.Since(began); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || took != c.took {
				t.Errorf("%s: %v after %v, want %v after %v", c.name, err, took, c.want, c.took)
			}
		})
	}
}

// TestCandidates checks which carriers are tried, and which one is chosen.
func TestCandidates(t *testing.T) {
	found := func(rtt time.Duration, rate float64) Candidate {
		return Candidate{Found: migration.Preflight{RTT: rtt, Rate: rate}}
	}
	fails := func(code transport.Code, remote bool, err error) Candidate {
		return Candidate{Err: &transport.Fault{Code: code, Remote: remote, Err: err}}
	}
	noDestination := fails(transport.CodeNetwork, false, transport.ErrUnreachable)
	lost := fails(transport.CodeNetwork, false, transport.ErrLost)
	slow := fails(transport.CodeTimeout, false, errors.New("not ended"))
	declined := fails(transport.CodeDevices, true, errors.New("other devices"))
	stranger := fails(transport.CodeAuth, false, transport.ErrAuth)
	quick := found(ms, 1e9)
	for _, c := range []struct {
		name      string
		quic, tls Candidate
		tries     bool // TLS as well
		chooses   bool // TLS
	}{
		{"TLS is clearly faster", found(ms, 0.7e9), quick, true, true},
		{"TLS is hardly faster", found(ms, 0.9e9), quick, true, false},
		{"QUIC is faster", quick, found(ms, 0.5e9), true, false},
		{"the path is long", found(nearRTT, 1e6), quick, false, false},
		{"QUIC could not be measured", found(ms, 0), quick, true, true},
		{"neither could", found(ms, 0), found(ms, 0), true, false},
		{"UDP is cut off", lost, quick, true, true},
		{"UDP is strangled", slow, quick, true, true},
		{"no TLS is there", quick, noDestination, true, false},
		{"both are cut off", lost, lost, true, false},
		{"UDP is cut off, which the destination does not know", lost, declined, true, true},
		{"UDP is cut off, and a stranger is at TLS", lost, stranger, true, false},
		{"it would be refused", declined, quick, false, false},
		{"another peer is there", stranger, quick, false, false},
	} {
		if got := c.quic.mayBeBeaten(); got != c.tries {
			t.Errorf("%s: TLS tried: %v, want %v", c.name, got, c.tries)
		}
		if got := c.tries && c.tls.beats(c.quic); got != c.chooses {
			t.Errorf("%s: TLS chosen: %v, want %v", c.name, got, c.chooses)
		}
	}
}
