package reader

import (
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport"
)

func TestLanesFor(t *testing.T) {
	const mib = 1 << 20
	quic := func(rtt time.Duration) transport.Carrier { return transport.Carrier{RTT: rtt, Window: 14_520_000} }
	for _, c := range []struct {
		name    string
		carrier transport.Carrier
		memory  int
		limit   uint64
		cores   int
		want    int
	}{
		{"a short path", quic(100 * time.Microsecond), 1 << 30, 0, 2, 2},
		{"one core", quic(100 * time.Microsecond), 1 << 30, 0, 1, 2},
		{"many cores", quic(100 * time.Microsecond), 1 << 30, 0, 16, 8},
		{"more cores than lanes", quic(100 * time.Microsecond), 1 << 30, 0, 128, transport.MaxLanes},
		{"a long path fills the memory", quic(50 * time.Millisecond), 32 * mib, 0, 2, 3},
		{"with more of it", quic(50 * time.Millisecond), 128 * mib, 0, 2, 10},
		{"with any amount", quic(50 * time.Millisecond), 1 << 30, 0, 2, transport.MaxLanes},
		{"10 ms at 100 Gbit/s", quic(10 * time.Millisecond), 1 << 30, 0, 2, 9},
		{"a limit needs fewer", quic(50 * time.Millisecond), 1 << 30, 1.25e9, 2, 5},
		{"a low limit", quic(time.Second), 1 << 30, 1e6, 2, 2},
		{"a limit beyond any path", quic(10 * time.Millisecond), 1 << 30, 1 << 60, 2, 9},
		{"smaller windows", transport.Carrier{RTT: 50 * time.Millisecond, Window: 4 * mib}, 32 * mib, 0, 2, 8},
		{"a busy host next door", quic(4 * time.Millisecond), 1 << 30, 0, 2, 2},
		{"nothing was measured", quic(0), 1 << 30, 0, 4, 2},
		{"a carrier within the host", transport.Carrier{}, 1 << 30, 0, 2, 2},
	} {
		if got := lanesFor(c.carrier, c.memory, c.limit, c.cores); got != c.want {
			t.Errorf("%s: %d lanes, want %d", c.name, got, c.want)
		}
	}
}
