package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/test/port"
)

// quicPair is a listener and what it takes to reach it, well or badly.
type quicPair struct {
	sender, receiver *Identity
	listener         *quicListener
	dialer           *QUICDialer
}

func newQUICPair(t *testing.T) *quicPair {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	p := &quicPair{sender: testIdentity(t), receiver: testIdentity(t)}
	p.listen(t, "127.0.0.1:0", p.sender.ID())
	return p
}

func (p *quicPair) listen(t *testing.T, addr string, peers ...PeerID) {
	t.Helper()
	l, err := ListenQUIC(addr, Pinned{p.receiver, peers}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.listener = l.(*quicListener)
	p.dialer = &QUICDialer{Addr: l.Addr().String(), Credentials: Pinned{p.sender, []PeerID{p.receiver.ID()}}}
}

// dial gives a lane that has said its first byte.
func (p *quicPair) dial(t *testing.T) *quicLane {
	t.Helper()
	lane, err := p.dialer.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lane.Close() })
	if _, err := lane.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	return lane.(*quicLane)
}

func (p *quicPair) accept(t *testing.T) *quicLane {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	lane, err := p.listener.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lane.Close() })
	return lane.(*quicLane)
}

// raw dials with a TLS configuration that a real dialler would not use.
func (p *quicPair) raw(t *testing.T, config *tls.Config) (*quic.Conn, error) {
	t.Helper()
	conn, err := quic.DialAddr(t.Context(), p.listener.Addr().String(), config, quicConfig(&windowBudget{}, 0))
	if err == nil {
		t.Cleanup(func() { conn.CloseWithError(0, "") })
	}
	return conn, err
}

func (p *quicPair) nobodyComes(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if lane, err := p.listener.Accept(ctx); err == nil {
		lane.Close()
		t.Error("the listener accepted a peer that it must refuse")
	}
}

func TestQUICKnowsThePeer(t *testing.T) {
	p := newQUICPair(t)
	ours := p.dial(t)
	theirs := p.accept(t)
	if ours.Peer() != p.receiver.ID() || theirs.Peer() != p.sender.ID() {
		t.Fatalf("peers %v and %v, want %v and %v", ours.Peer(), theirs.Peer(), p.receiver, p.sender)
	}
}

func TestQUICDialsWrongPeer(t *testing.T) {
	p := newQUICPair(t)
	p.dialer.Credentials = Pinned{p.sender, []PeerID{testIdentity(t).ID()}}
	_, err := p.dialer.Dial(t.Context())
	wrong, ok := errors.AsType[*WrongPeerError](err)
	if !ok || wrong.Got != p.receiver.ID() || !strings.Contains(err.Error(), p.receiver.ID().String()) {
		t.Fatalf("dial: %v, want a WrongPeerError with %v", err, p.receiver)
	}
	p.nobodyComes(t)
}

// A client of TLS 1.3 believes that it is connected until the peer's answer to
// its certificate comes.
func TestQUICRefusesClients(t *testing.T) {
	for _, c := range []struct {
		name   string
		client func(*testing.T, *quicPair) *tls.Config
	}{
		{"unknown key", func(t *testing.T, p *quicPair) *tls.Config {
			return testTLS(t, testIdentity(t), RoleSource, p.receiver)
		}},
		{"no certificate", func(t *testing.T, p *quicPair) *tls.Config {
			config := testTLS(t, p.sender, RoleSource, p.receiver)
			config.Certificates = nil
			return config
		}},
		{"certificate of a receiver", func(t *testing.T, p *quicPair) *tls.Config {
			config := testTLS(t, p.sender, RoleSource, p.receiver)
			config.Certificates = testTLS(t, p.sender, RoleDestination).Certificates
			return config
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newQUICPair(t)
			conn, err := p.raw(t, c.client(t, p)) // which may hear of the refusal already
			var stream *quic.Stream
			if err == nil {
				stream, err = conn.OpenStream()
			}
			if err == nil {
				stream.Write([]byte{1})
				_, err = stream.Read(make([]byte, 1))
			}
			if err := quicLaneError(err); !errors.Is(err, ErrRefusedByPeer) || !errors.Is(err, ErrAuth) {
				t.Errorf("first read: %v, want ErrRefusedByPeer", err)
			}
			p.nobodyComes(t)
		})
	}
}

func TestQUICRefusedLane(t *testing.T) {
	p := newQUICPair(t)
	p.listener.Close()
	p.listen(t, "127.0.0.1:0") // an empty list
	lane, err := p.dialer.Dial(t.Context())
	if err == nil {
		defer lane.Close()
		_, err = lane.Read(make([]byte, 1))
	}
	if !errors.Is(err, ErrRefusedByPeer) {
		t.Fatalf("%v, want ErrRefusedByPeer", err)
	}
}

func TestQUICOtherProtocol(t *testing.T) {
	p := newQUICPair(t)
	config := testTLS(t, p.sender, RoleSource, p.receiver)
	config.NextProtos = []string{"mig/2"}
	_, err := p.raw(t, config)
	if wrong := identityError(err, refused(err)); err == nil || wrong != nil {
		t.Fatalf("other protocol: %v, want a failure that is not about identity", err)
	}
}

func TestQUICHasNo0RTT(t *testing.T) {
	p := newQUICPair(t)
	config := testTLS(t, p.sender, RoleSource, p.receiver)
	config.ServerName, config.ClientSessionCache = "receiver", tls.NewLRUClientSessionCache(4)
	for range 2 {
		conn, err := quic.DialAddrEarly(t.Context(), p.listener.Addr().String(), config, quicConfig(&windowBudget{}, 0))
		if err != nil {
			t.Fatal(err)
		}
		<-conn.HandshakeComplete()
		stream, err := conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		stream.Write([]byte{1})
		p.accept(t) // the server's tickets, had it any, came before
		if state := conn.ConnectionState(); state.Used0RTT || state.TLS.DidResume {
			t.Fatal("a session was resumed")
		}
		conn.CloseWithError(0, "")
	}
}

func TestQUICOneStream(t *testing.T) {
	p := newQUICPair(t)
	lane := p.dial(t)
	p.accept(t)
	if _, err := lane.conn.OpenStream(); err == nil {
		t.Error("a second stream was allowed")
	}
	if _, err := lane.conn.OpenUniStream(); err == nil {
		t.Error("a unidirectional stream was allowed")
	}
}

func TestQUICOverIPv6(t *testing.T) {
	p := newQUICPair(t)
	probe, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 loopback: ", err)
	}
	probe.Close()
	p.listen(t, "[::1]:0", p.sender.ID())
	p.dial(t)
	p.accept(t)
}

func TestQUICByName(t *testing.T) {
	if _, err := net.LookupHost("localhost"); err != nil {
		t.Skip("SKIP: localhost has no address: /etc/hosts does not name it")
	}
	p := newQUICPair(t)
	_, port, err := net.SplitHostPort(p.dialer.Addr)
	if err != nil {
		t.Fatal(err)
	}
	p.dialer.Addr = net.JoinHostPort("localhost", port)
	p.dial(t)
	p.accept(t)
}

// retries counts the Retry packets (RFC 9000, section 17.2.5) that a socket
// receives.
type retries struct {
	net.PacketConn
	n atomic.Int64
}

func (r *retries) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := r.PacketConn.ReadFrom(p)
	if n > 0 && p[0]&0xf0 == 0xf0 {
		r.n.Add(1)
	}
	return n, addr, err
}

// retriesOf dials once more and says how often the address had to be proved.
func (p *quicPair) retriesOf(t *testing.T, config *tls.Config) int64 {
	t.Helper()
	t.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") // for the wrapper, which has no buffer to size
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	r := &retries{PacketConn: socket}
	transport := &quic.Transport{Conn: r}
	defer transport.Close()
	conn, err := transport.Dial(t.Context(), p.listener.Addr(), config, quicConfig(&windowBudget{}, 0))
	if err != nil {
		t.Fatal(err)
	}
	conn.CloseWithError(0, "")
	return r.n.Load()
}

// Connections that say nothing neither keep others out nor stay.
func TestQUICHalfOpen(t *testing.T) {
	p := newQUICPair(t)
	config := testTLS(t, p.sender, RoleSource, p.receiver)
	for range 3 {
		if _, err := p.raw(t, config); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.listener.halfOpen.count(); n < 1 || n > 3 { // a slow machine has lost some already
		t.Errorf("%d connections are half open, want 3", n)
	}
	p.dial(t)
	p.accept(t)
	p.noneHalfOpen(t)
}

// Places without connections stand for those: that many handshakes would take a
// slow machine longer than they may last.
func TestQUICHalfOpenLimits(t *testing.T) {
	p := newQUICPair(t)
	config := testTLS(t, p.sender, RoleSource, p.receiver)
	if n := p.retriesOf(t, config); n != 0 {
		t.Errorf("the first connection took %d Retries", n)
	}
	p.noneHalfOpen(t)
	taken := take(&p.listener.halfOpen, RetryHalfOpen)
	if p.retriesOf(t, config) == 0 { // there may be one per packet of the ClientHello
		t.Error("an address was not to be proved")
	}
	p.dial(t)
	p.accept(t)
	waitUntil(t, 2*HandshakeTimeout, func() bool { return p.listener.halfOpen.count() == RetryHalfOpen })
	taken = append(taken, take(&p.listener.halfOpen, MaxHalfOpen-RetryHalfOpen)...)
	_, err := p.raw(t, config)
	if !errors.Is(err, &quic.TransportError{Remote: true, ErrorCode: quic.ConnectionRefused}) {
		t.Errorf("connection above MaxHalfOpen: %v, want it refused", err)
	}
	for _, one := range taken {
		p.listener.halfOpen.leave(one)
	}
	p.noneHalfOpen(t)
}

func (p *quicPair) noneHalfOpen(t *testing.T) {
	t.Helper()
	waitUntil(t, 2*HandshakeTimeout, func() bool { return p.listener.halfOpen.count() == 0 })
}

func waitUntil(t *testing.T, patience time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

// Close joins half-open connections and lanes that were not accepted.
func TestQUICCloseWithHalfOpen(t *testing.T) {
	p := newQUICPair(t)
	if _, err := p.raw(t, testTLS(t, p.sender, RoleSource, p.receiver)); err != nil {
		t.Fatal(err)
	}
	lane := p.dial(t)
	start := time.Now()
	p.listener.Close()
	if took := time.Since(start); took >= HandshakeTimeout {
		t.Errorf("Close took %v: it waited for a silent peer", took)
	}
	if _, err := lane.Read(make([]byte, 1)); !errors.Is(err, ErrPeerGone) {
		t.Errorf("read of a lane never accepted: %v, want ErrPeerGone", err)
	}
}

// breakSockets closes the listener's sockets under it.
func (p *quicPair) breakSockets() {
	for _, s := range p.listener.sockets.all {
		s.conn.Close()
	}
}

// A peer that vanishes without a word is noticed after IdleTimeout.
func TestQUICPeerVanishes(t *testing.T) {
	p := newQUICPair(t)
	ours := p.dial(t)
	theirs := p.accept(t)
	p.breakSockets()
	start := time.Now()
	_, err := ours.Read(make([]byte, 1))
	if took := time.Since(start); !errors.Is(err, ErrPeerGone) || took > IdleTimeout+2*time.Second {
		t.Errorf("read: %v after %v, want ErrPeerGone after %v", err, took, IdleTimeout)
	}
	if _, err := io.ReadAll(theirs); !errors.Is(err, ErrPeerGone) {
		t.Errorf("read on the lost socket: %v, want ErrPeerGone", err)
	}
}

// A restarted peer recognises lanes of its former life: no timeout is waited for.
func TestQUICPeerRestarts(t *testing.T) {
	p := newQUICPair(t)
	p.listener.Close()
	addr := port.Own(t)
	p.listen(t, addr, p.sender.ID())
	ours := p.dial(t)
	p.accept(t)
	p.breakSockets()
	p.listen(t, addr, p.sender.ID())
	if _, err := ours.Write(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	_, err := ours.Read(make([]byte, 1))
	if _, ok := errors.AsType[*quic.StatelessResetError](err); !ok || !errors.Is(err, ErrPeerGone) {
		t.Errorf("read: %v, want ErrPeerGone by a reset", err)
	}
}

func TestQUICDialErrors(t *testing.T) {
	d := &QUICDialer{Credentials: Pinned{Identity: testIdentity(t)}}
	for _, addr := range []string{"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http", "[::1:1"} {
		d.Addr = addr
		if _, err := d.Dial(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("dial %q: %v, want ErrUnreachable", addr, err)
		}
	}
	for _, addr := range []string{"nonsense", "127.0.0.1:99999", "192.0.2.1:0"} {
		if l, err := ListenQUIC(addr, d.Credentials, nil); err == nil {
			l.Close()
			t.Errorf("listen on %q succeeded", addr)
		}
	}
}

func TestQUICDialGivesUp(t *testing.T) {
	silent, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := &QUICDialer{Addr: silent.LocalAddr().String(), Credentials: Pinned{Identity: testIdentity(t)}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx); !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v, want ErrUnreachable and the deadline", err)
	}
	gone := errors.New("the user pressed a key")
	cancelled, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { stop(gone) })
	if _, err := d.Dial(cancelled); !errors.Is(err, gone) || errors.Is(err, ErrUnreachable) {
		t.Errorf("cancelled: %v, want the cause", err)
	}
}

func TestQUICLaneError(t *testing.T) {
	crypto := func(alert quic.TransportErrorCode) error {
		return &quic.TransportError{Remote: true, ErrorCode: 0x100 + alert}
	}
	for _, c := range []struct{ err, want error }{
		{nil, nil},
		{io.EOF, io.EOF},
		{os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
		{&quic.ApplicationError{}, net.ErrClosed},
		{&quic.ApplicationError{Remote: true}, ErrPeerGone},
		{&quic.ApplicationError{Remote: true, ErrorCode: codeGivenUp}, ErrLost},
		{&quic.StreamError{}, net.ErrClosed},
		{&quic.StreamError{Remote: true}, ErrPeerGone},
		{quic.ErrStreamClosed, net.ErrClosed},
		{&quic.IdleTimeoutError{}, ErrLost},
		{&quic.StatelessResetError{}, ErrLost},
		{&quic.TransportError{ErrorCode: quic.InternalError}, ErrLost},
		{crypto(42), ErrRefusedByPeer},
		{crypto(116), ErrRefusedByPeer},
		{crypto(80), ErrLost},
	} {
		got := quicLaneError(c.err)
		if !errors.Is(got, c.want) || c.want == ErrPeerGone && errors.Is(got, ErrLost) {
			t.Errorf("%v becomes %v, want %v", c.err, got, c.want)
		}
	}
}

// What a peer says is shown, but it can neither draw on a terminal nor fill it.
func TestQUICErrorQuotesThePeer(t *testing.T) {
	p := newQUICPair(t)
	conn, err := p.raw(t, testTLS(t, p.sender, RoleSource, p.receiver))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	stream.Write([]byte{1})
	lane := p.accept(t)
	conn.CloseWithError(7, "\x1b[2J"+strings.Repeat("x", 900))
	_, err = io.ReadAll(lane)
	if text := fmt.Sprint(err); strings.ContainsRune(text, '\x1b') || len(text) > 500 {
		t.Errorf("the peer's text is shown as it came: %q", text)
	}
}

func TestWindowBudget(t *testing.T) {
	var b windowBudget
	one, two := new(quic.Conn), new(quic.Conn)
	switch {
	case !b.grant(one, MaxWindowGrowth-1), !b.grant(two, 1):
		t.Error("a grant within the budget was refused")
	case b.grant(two, 1):
		t.Error("the budget was exceeded")
	}
	b.forget(one, nil)
	if b.total != 1 || !b.grant(two, MaxWindowGrowth-1) {
		t.Errorf("%d granted after one gave back, want 1", b.total)
	}
	b.forget(two, &quic.ApplicationError{})
	b.forget(two, &quic.TransportError{Remote: true, ErrorCode: quic.InternalError})
	if b.total != 0 || len(b.granted) != 0 {
		t.Errorf("%d granted to %d connections that are gone", b.total, len(b.granted))
	}
	if !b.grant(one, 1) {
		t.Error("the budget is shut although no path has lost too much")
	}
}

// TestListenOnSocket: a socket that another process has bound is listened on, and is
// the listener's to close, also where it cannot listen.
func TestListenOnSocket(t *testing.T) {
	id := testIdentity(t)
	for _, closed := range []bool{false, true} {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		address := conn.LocalAddr().String()
		if closed {
			conn.Close()
		}
		l, err := ListenQUICOn(conn, Pinned{Identity: id}, nil)
		if (err != nil) != closed {
			t.Fatalf("closed: %v, %v", closed, err)
		}
		if err == nil {
			if l.Addr().String() != address {
				t.Errorf("listens on %v, want %v", l.Addr(), address)
			}
			l.Close()
		}
		if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the socket is left open: %v", err)
		}
	}
}
