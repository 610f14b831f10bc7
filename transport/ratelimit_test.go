package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

func udp(ip string) net.Addr { return &net.UDPAddr{IP: net.ParseIP(ip), Port: 7} }

// take opens n connections and says how many were admitted.
func (c *rateLimit) take(from net.Addr, n int) (admitted int) {
	for range n {
		if c.admit(from) {
			admitted++
		}
	}
	return admitted
}

func TestCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRateLimit()
		one := udp("192.0.2.1")
		if n := c.take(one, ConnBurst/2); n != ConnBurst/2 || c.hurried(one) {
			t.Errorf("%d of %d connections were admitted, address to be proved: %v", n, ConnBurst/2, c.hurried(one))
		}
		if n := c.take(one, ConnBurst); n != ConnBurst/2 || !c.hurried(one) {
			t.Errorf("%d of the last %d were admitted, address to be proved: %v", n, ConnBurst/2, c.hurried(one))
		}
		time.Sleep(time.Second)
		if n := c.take(one, ConnBurst); n != ConnRate {
			t.Errorf("%d were admitted after a second, want %d", n, ConnRate)
		}
		time.Sleep(time.Hour)
		if n := c.take(one, 2*ConnBurst); n != ConnBurst {
			t.Errorf("%d were admitted after an hour, want %d", n, ConnBurst)
		}
	})
}

// What is one address, and what another.
func TestCallerOf(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8::ffff:2", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"2001:db8::", "32.1.13.184", false},
	} {
		if got := callerOf(udp(c.a)) == callerOf(udp(c.b)); got != c.same {
			t.Errorf("%s and %s are one address: %v", c.a, c.b, got)
		}
	}
	onLink := func(ip, zone string) net.Addr { return &net.UDPAddr{IP: net.ParseIP(ip), Zone: zone} }
	if callerOf(onLink("fe80::1", "eth0")) != callerOf(onLink("fe80::2", "eth0")) || callerOf(&net.UnixAddr{}) == callerOf(onLink("fe80::1", "eth0")) {
		t.Error("two addresses of a link are two networks, or no address is one")
	}
	if callerOf(onLink("fe80::1", "eth0")) == callerOf(onLink("fe80::1", "eth1")) {
		t.Error("two links are one network")
	}
}

// An address that has used up its connections keeps hardly any other out, however
// many addresses there are.
func TestCallersShareLittle(t *testing.T) {
	c := newRateLimit()
	c.take(udp("192.0.2.1"), ConnBurst)
	out := 0
	for i := range 256 {
		if c.hurried(udp(fmt.Sprintf("198.51.100.%d", i))) {
			out++
		}
	}
	if out > 16 { // of 256; 0.25 are to be expected
		t.Errorf("%d of 256 other addresses suffer", out)
	}
}

// A migration with all its lanes, and the next one, come from one address.
func TestQUICTwoMigrationsInARow(t *testing.T) {
	p := newQUICPair(t)
	for range 2 * (1 + MaxLanes) {
		p.dial(t)
		p.accept(t)
	}
	if p.listener.callers.take(udp("127.0.0.1"), 1) != 1 {
		t.Error("nothing is left for the lanes that are lost")
	}
}

// An address that dials without end has to prove itself, then is refused, and
// no other is.
func TestQUICRefusesFlood(t *testing.T) {
	p := newQUICPair(t)
	p.listener.Close()
	refused := make(chan error, 64)
	l, err := ListenQUIC("127.0.0.1:0", Pinned{p.receiver, []PeerID{p.sender.ID()}}, &ListenOptions{Refused: func(err error) { refused <- err }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.listener, p.dialer.Addr = l.(*quicListener), l.Addr().String()
	config := testTLS(t, p.sender, RoleSource, p.receiver)
	here, elsewhere := udp("127.0.0.1"), 2
	for p.listener.callers.bucket(udp(fmt.Sprint("127.0.0.", elsewhere))) == p.listener.callers.bucket(here) {
		elsewhere++
	}
	p.listener.callers.bucket(here).SetLimit(0) // what is used up stays so
	if n := p.retriesOf(t, config); n != 0 {
		t.Errorf("the first connection took %d Retries", n)
	}
	p.listener.callers.take(here, ConnBurst/2)
	if p.retriesOf(t, config) == 0 {
		t.Error("an address in a hurry had nothing to prove")
	}
	p.listener.callers.take(here, ConnBurst)
	if _, err := p.raw(t, config); !errors.Is(err, &quic.TransportError{Remote: true, ErrorCode: quic.ConnectionRefused}) {
		t.Errorf("connection too many: %v, want it refused", err)
	}
	if err := <-refused; !strings.Contains(err.Error(), "connections at once") || !strings.Contains(err.Error(), "127.0.0.1:") {
		t.Errorf("told of %v", err)
	}
	if _, err := p.rawFrom(t, fmt.Sprint("127.0.0.", elsewhere), config); err != nil {
		t.Errorf("another address: %v", err)
	}
	p.noneHalfOpen(t)
}

// rawFrom is raw from another address of this host.
func (p *quicPair) rawFrom(t *testing.T, ip string, config *tls.Config) (*quic.Conn, error) {
	t.Helper()
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: socket}
	t.Cleanup(func() { transport.Close(); socket.Close() })
	return transport.Dial(t.Context(), p.listener.Addr(), config, quicConfig(&windowBudget{}, 0))
}

// Connections that send nothing, of any peer, make the next one prove its
// address, and that one is served.
func TestQUICRetryUnderLoad(t *testing.T) {
	p := newQUICPair(t)
	config := testTLS(t, p.sender, RoleSource, p.receiver)
	if n := p.retriesOf(t, config); n != 0 {
		t.Fatalf("an idle listener sent %d Retries", n)
	}
	p.noneHalfOpen(t)
	began := time.Now()
	for i := range RetryHalfOpen {
		if _, err := p.rawFrom(t, fmt.Sprintf("127.0.0.%d", 2+i), config); err != nil {
			t.Fatal(err)
		}
	}
	n := p.retriesOf(t, config)
	if n == 0 && time.Since(began) < HandshakeTimeout { // else the first are gone already
		t.Errorf("%d connections are half open, and no Retry was sent", p.listener.halfOpen.count())
	}
	p.dial(t)
	p.accept(t)
	p.noneHalfOpen(t)
}
