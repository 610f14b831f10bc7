package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

// take takes places without eviction.
func take(table *halfOpen, n int) (taken []*place) {
	for range n {
		_, p, err := table.enter(context.Background(), udp("192.0.2.99"), false)
		if err != nil {
			panic(err)
		}
		taken = append(taken, p)
	}
	return taken
}

// since makes a silence that began some time ago.
func since(ago time.Duration) func() time.Duration {
	at := time.Now().Add(-ago)
	return func() time.Duration { return time.Since(at) }
}

// TestHalfOpenTable: which connection loses its place to which.
func TestHalfOpenTable(t *testing.T) {
	stranger, friend := udp("192.0.2.1"), udp("192.0.2.2")
	enter := func(t *testing.T, table *halfOpen, from net.Addr, silent time.Duration) context.Context {
		ctx, p, err := table.enter(t.Context(), from, true)
		if err != nil {
			t.Fatal(err)
		}
		table.mayEvict(p, since(silent))
		return ctx
	}
	const long, short = SilentTime, SilentTime / 2
	for _, c := range []struct {
		name    string
		from    net.Addr
		proven  bool
		silent  []time.Duration // of strangers, the oldest first
		friends []time.Duration // and after them of the address that is known
		want    int             // of the connection that loses its place, -1 for none
	}{
		{"nobody is silent", stranger, true, []time.Duration{short, 0}, nil, -1},
		{"the oldest silent one goes", stranger, true, []time.Duration{short, long, 2 * long}, nil, 1},
		{"a stranger before an address that is known", stranger, true, []time.Duration{short, long}, []time.Duration{2 * long}, 1},
		{"an address that is known, and holds its place in silence", stranger, true, []time.Duration{short}, []time.Duration{long}, 1},
		{"an address that is known takes any stranger's place", friend, true, []time.Duration{short, 0}, []time.Duration{short}, 0},
		{"a silent one's first", friend, true, []time.Duration{short, long}, nil, 1},
		{"but not that of its own", friend, true, nil, []time.Duration{short, 0}, -1},
		{"nor where the address is not proven", friend, false, []time.Duration{short, 0}, nil, -1},
	} {
		synctest.Test(t, func(t *testing.T) {
			table := new(halfOpen)
			_, before, _ := table.enter(t.Context(), friend, true)
			table.authenticated(before)
			table.leave(before)
			var all []context.Context
			for _, silent := range c.silent {
				all = append(all, enter(t, table, stranger, silent))
			}
			for _, silent := range c.friends {
				all = append(all, enter(t, table, friend, silent))
			}
			take(table, MaxHalfOpen-len(all))
			_, _, err := table.enter(t.Context(), c.from, c.proven)
			if (err != nil) != (c.want < 0) || table.count() != MaxHalfOpen {
				t.Errorf("%s: %v, and %d have a place", c.name, err, table.count())
			}
			for i, ctx := range all {
				if gone := ctx.Err() != nil; gone != (i == c.want) {
					t.Errorf("%s: connection %d has lost its place: %v", c.name, i, gone)
				}
			}
		})
	}
}

// TestHalfOpenCloses: the end of the listener ends what half-open connections do, and leaves the
// lanes that were handed over alone.
func TestHalfOpenCloses(t *testing.T) {
	table := new(halfOpen)
	open, _, _ := table.enter(t.Context(), udp("192.0.2.1"), true)
	lane, p, _ := table.enter(t.Context(), udp("192.0.2.2"), true)
	table.settle(p)
	table.shut()
	if !errors.Is(context.Cause(open), net.ErrClosed) || lane.Err() != nil || table.count() != 0 {
		t.Errorf("the half-open one: %v, the lane: %v, and %d have a place", context.Cause(open), lane.Err(), table.count())
	}
	if late, _, _ := table.enter(t.Context(), udp("192.0.2.3"), true); !errors.Is(context.Cause(late), net.ErrClosed) {
		t.Errorf("one that was accepted before the end, and enters after it: %v", context.Cause(late))
	}
}

// TestHalfOpenKnown: an address is known for KnownTime, and of KnownAddresses the last.
func TestHalfOpenKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := new(halfOpen)
		known := func(from net.Addr) bool { return table.knows(callerOf(from)) }
		first := udp("192.0.2.1")
		for i := range KnownAddresses + 1 {
			_, p, err := table.enter(t.Context(), udp(fmt.Sprintf("192.0.%d.%d", 2+i/256, 1+i%256)), true)
			if err != nil {
				t.Fatal(err)
			}
			table.authenticated(p)
			table.leave(p)
			time.Sleep(time.Second)
		}
		if len(table.known) != KnownAddresses || known(first) || !known(udp("192.0.2.2")) {
			t.Errorf("%d addresses are known, the oldest of all among them: %v", len(table.known), known(first))
		}
		last := udp("192.0.3.1")
		time.Sleep(KnownTime - 2*time.Second)
		if !known(last) {
			t.Error("the address is forgotten too soon")
		}
		time.Sleep(2 * time.Second)
		if known(last) {
			t.Error("the address is known for ever")
		}
	})
}

// muted is a socket that sends what opens a QUIC connection, and nothing after the answer.
type muted struct {
	net.PacketConn
	answered atomic.Bool
}

func (m *muted) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := m.PacketConn.ReadFrom(b)
	if retry := byte(0x30); n > 0 && b[0]&retry != retry { // the packet's type, RFC 9000, section 17.2
		m.answered.Store(true)
	}
	return n, from, err
}

func (m *muted) WriteTo(b []byte, to net.Addr) (int, error) {
	if m.answered.Load() {
		return len(b), nil
	}
	return m.PacketConn.WriteTo(b, to)
}

// begin opens a QUIC connection from an address that says nothing after its first message.
func (p *quicPair) begin(t *testing.T, from string, config *tls.Config) {
	t.Helper()
	socket, err := net.ListenPacket("udp4", from+":0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: &muted{PacketConn: socket}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done; transport.Close(); socket.Close() })
	go func() { // ends with ctx
		defer close(done)
		if conn, err := transport.Dial(ctx, p.listener.Addr(), config, quicConfig(&windowBudget{}, 0)); err == nil {
			conn.CloseWithError(0, "")
		}
	}()
}

// TestQUICSilentCrowd: QUIC connections whose peers say nothing after their first message give
// up their places to those who come after a second, although they could have kept them longer.
func TestQUICSilentCrowd(t *testing.T) {
	p := newQUICPair(t)
	config := testTLS(t, p.sender, RoleSource, p.receiver)
	for i := range 8 {
		p.begin(t, fmt.Sprintf("127.0.0.%d", 2+i), config)
	}
	waitUntil(t, HandshakeTimeout, func() bool { return p.listener.halfOpen.count() == 8 })
	held := take(&p.listener.halfOpen, MaxHalfOpen-8)
	began, hungUp := time.Now(), 0
	for {
		lane, err := p.dialer.Dial(t.Context())
		if err == nil {
			defer lane.Close()
			break
		}
		if !errors.Is(err, ErrHungUp) {
			t.Fatalf("dial: %v, want ErrHungUp", err)
		}
		hungUp++
		time.Sleep(50 * time.Millisecond)
	}
	if took := time.Since(began); hungUp == 0 || took > SilentTime+time.Second {
		t.Errorf("there was a place after %v, and %d refusals", took, hungUp)
	}
	for _, one := range held {
		p.listener.halfOpen.leave(one)
	}
}

// cut is a socket that sends its first packet alone: half of the message that opens a QUIC
// connection.
type cut struct {
	net.PacketConn
	sent atomic.Bool
}

func (c *cut) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.sent.Swap(true) {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

// TestQUICCloseRefuses: the end of a listener refuses a peer whose first message is not whole,
// although a lane of another peer keeps the sockets open.
func TestQUICCloseRefuses(t *testing.T) {
	p := newQUICPair(t)
	defer p.dial(t).Close()
	defer p.accept(t).Close()
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: &cut{PacketConn: socket}}
	defer socket.Close()
	defer transport.Close()
	done := make(chan error)
	go func() { // is refused, or ends after HandshakeTimeout
		_, err := transport.Dial(t.Context(), p.listener.Addr(), testTLS(t, p.sender, RoleSource, p.receiver), quicConfig(&windowBudget{}, 0))
		done <- err
	}()
	waitUntil(t, HandshakeTimeout, func() bool { return p.listener.halfOpen.count() == 1 })
	p.listener.Close()
	var refused *quic.TransportError
	if err := <-done; !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
		t.Errorf("the peer is told %v, want CONNECTION_REFUSED", err)
	}
}
