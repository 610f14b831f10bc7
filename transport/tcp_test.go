package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/must"
)

// tlsPair is a listener and the dialler that reaches it.
type tlsPair struct {
	sender, receiver *Identity
	listener         *tlsListener
	dialer           *TLSDialer
	refused          chan error
}

func newTLSPair(t testing.TB, known ...PeerID) *tlsPair {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	p := &tlsPair{sender: testIdentity(t), receiver: testIdentity(t), refused: make(chan error, 200)}
	if known == nil {
		known = []PeerID{p.sender.ID()}
	}
	l, err := ListenTLS("127.0.0.1:0", Pinned{p.receiver, known}, &ListenOptions{Refused: func(err error) { p.refused <- err }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.listener = l.(*tlsListener)
	p.dialer = &TLSDialer{Addr: l.Addr().String(), Credentials: Pinned{p.sender, []PeerID{p.receiver.ID()}}}
	return p
}

func (p *tlsPair) open(t testing.TB) (ours, theirs *tlsLane) {
	t.Helper()
	lane, err := p.dialer.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lane.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	accepted, err := p.listener.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return lane.(*tlsLane), accepted.(*tlsLane)
}

func TestTLSKnowsThePeer(t *testing.T) {
	p := newTLSPair(t)
	ours, theirs := p.open(t)
	if ours.Peer() != p.receiver.ID() || theirs.Peer() != p.sender.ID() {
		t.Errorf("peers %v and %v, want %v and %v", ours.Peer(), theirs.Peer(), p.receiver, p.sender)
	}
	if c := CarrierOf(ours); c.Name != "tls" {
		t.Errorf("carrier %+v", c)
	}
}

func TestTLSDialsWrongPeer(t *testing.T) {
	p := newTLSPair(t)
	p.dialer.Credentials = Pinned{p.sender, []PeerID{testIdentity(t).ID()}}
	_, err := p.dialer.Dial(t.Context())
	if wrong, ok := errors.AsType[*WrongPeerError](err); !ok || wrong.Got != p.receiver.ID() {
		t.Errorf("dial: %v, want a WrongPeerError with %v", err, p.receiver)
	}
	if err := <-p.refused; !errors.Is(err, ErrRefusedByPeer) {
		t.Errorf("the listener reports %v, want ErrRefusedByPeer", err)
	}
}

// TestTLSRefused: a client of TLS 1.3 believes that it is connected until the peer's
// answer to its certificate comes. The listener says who was there.
func TestTLSRefused(t *testing.T) {
	p := newTLSPair(t, PeerID{1})
	lane, err := p.dialer.Dial(t.Context())
	if err == nil {
		defer lane.Close()
		lane.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = lane.Read(make([]byte, 1))
	}
	if !errors.Is(err, ErrRefusedByPeer) || !errors.Is(err, ErrAuth) {
		t.Errorf("first read: %v, want ErrRefusedByPeer", err)
	}
	if wrong, ok := errors.AsType[*WrongPeerError](<-p.refused); !ok || wrong.Got != p.sender.ID() {
		t.Errorf("refused: %v", wrong)
	}
}

// TestTLSUnreachable: no peer, a peer that sends nothing, and a peer with another
// protocol.
func TestTLSUnreachable(t *testing.T) {
	p := newTLSPair(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	certificate, _ := p.receiver.selfSign(RoleDestination)
	other, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() { // ends with the listener
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	for _, addr := range []string{"127.0.0.1:1", "127.0.0.1:port", silent.Addr().String(), other.Addr().String()} {
		p.dialer.Addr = addr
		began := time.Now()
		_, err := p.dialer.Dial(t.Context())
		if took := time.Since(began); !errors.Is(err, ErrUnreachable) || errors.Is(err, os.ErrDeadlineExceeded) || took > HandshakeTimeout+time.Second {
			t.Errorf("%s: %v after %v", addr, err, took)
		}
	}
}

// TestTLSEnds: a program that ends a lane says so. One that gives the connection up, or is
// killed, does not: that is worth dialling again.
func TestTLSEnds(t *testing.T) {
	p := newTLSPair(t)
	ours, theirs := p.open(t)
	theirs.CloseWrite()
	go theirs.Close()
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("ended: %v, want EOF", err)
	}
	ours.Close()
	ours, theirs = p.open(t)
	theirs.Close()
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
		t.Errorf("given up: %v, want ErrLost", err)
	}
	ours, theirs = p.open(t)
	theirs.tcp.Close() // which is all that the kernel does
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
		t.Errorf("killed: %v, want ErrLost", err)
	}
	ours, theirs = p.open(t)
	theirs.tcp.SetLinger(0)
	theirs.tcp.Close()
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
		t.Errorf("reset: %v, want ErrLost", err)
	}
}

// TestTLSGoesOnAfterADeadline: what the kernel did not take before a deadline is not lost,
// nor is the lane; crypto/tls gives a connection up then.
func TestTLSGoesOnAfterADeadline(t *testing.T) {
	p := newTLSPair(t)
	ours, theirs := p.open(t)
	data := make([]byte, 32<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	got := make(chan []byte, 1)
	written, stops := 0, 0
	for written < len(data) {
		ours.SetDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := ours.Write(data[written:])
		written += n
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if err != nil && stops == 0 {
			if n > 24<<20 {
				t.Errorf("%d bytes are held for a peer that reads nothing", n)
			}
			go func() { b, _ := io.ReadAll(theirs); got <- b }()
		}
		if err != nil {
			stops++
		}
	}
	ours.SetDeadline(time.Time{})
	if err := ours.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b := <-got; stops == 0 || !slices.Equal(b, data) {
		t.Errorf("%d bytes came of %d, after %d deadlines", len(b), len(data), stops)
	}
}

// TestTLSSilentCrowd: of connections that say nothing no more are held than may be half
// open, and none for longer than a handshake may take.
func TestTLSSilentCrowd(t *testing.T) {
	p := newTLSPair(t)
	var crowd []net.Conn
	for range MaxHalfOpen + 4 {
		c, err := net.Dial("tcp", p.dialer.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		crowd = append(crowd, c)
	}
	began := time.Now()
	for i, c := range crowd {
		c.SetDeadline(began.Add(HandshakeTimeout + 2*time.Second))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d is held", i)
		}
	}
	waitUntil(t, HandshakeTimeout, func() bool { return p.listener.halfOpen.count() == 0 })
	for len(p.refused) > 0 {
		if err := <-p.refused; !strings.Contains(err.Error(), "connections at once") && !strings.Contains(err.Error(), "are half open") {
			t.Error(err)
		}
	}
	time.Sleep(time.Second) // for the address's bucket
	p.open(t)
}

// BenchmarkTLS is one lane beside crypto/tls as it comes, over TCP on loopback, both ends
// in this process. The two ways take turns.
func BenchmarkTLS(b *testing.B) {
	p := newTLSPair(b)
	bare := func() (net.Conn, net.Conn) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		server, _ := tlsConfig(Pinned{p.receiver, []PeerID{p.sender.ID()}}, RoleDestination)
		client, _ := tlsConfig(Pinned{p.sender, []PeerID{p.receiver.ID()}}, RoleSource)
		c := must.Get(net.Dial("tcp", l.Addr().String()))
		s := must.Get(l.Accept())
		ours, theirs := tls.Client(c, client), tls.Server(s, server)
		go theirs.Handshake()
		if err := ours.Handshake(); err != nil {
			b.Fatal(err)
		}
		return ours, theirs
	}
	block, room := make([]byte, 1<<20), make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(block)
	const turn = 512 // blocks
	var took [2]time.Duration
	for range b.N {
		for k := range 2 {
			var w io.Writer
			var r io.Reader
			if k == 0 {
				w, r = bare()
			} else {
				w, r = p.open(b)
			}
			go func() {
				for range turn {
					w.Write(block)
				}
			}()
			began := time.Now()
			for range turn {
				if _, err := io.ReadFull(r, room); err != nil {
					b.Fatal(err)
				}
			}
			took[k] += time.Since(began)
			w.(io.Closer).Close()
			r.(io.Closer).Close()
		}
	}
	for k, name := range []string{"bare-MB/s", "lane-MB/s"} {
		b.ReportMetric(float64(b.N*turn<<20)/took[k].Seconds()/1e6, name)
	}
	b.ReportMetric(0, "ns/op")
}

// TestTLSSegment: after a lane was lost, or has stalled, the next ones ask for segments that
// pass on every path; not before, and not after one that nothing was wrong with.
func TestTLSSegment(t *testing.T) {
	most := func(l *tlsLane) (n int) {
		raw, err := l.tcp.SyscallConn()
		if err == nil {
			raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
		}
		if err != nil {
			t.Error(err)
		}
		return n
	}
	for name, spoil := range map[string]func(ours, theirs *tlsLane){
		"lost":        func(ours, theirs *tlsLane) { theirs.Close(); ours.Read(make([]byte, 1)) },
		"stood still": func(ours, theirs *tlsLane) { ours.StoodStill() },
	} {
		p := newTLSPair(t)
		probe, _ := p.open(t)
		probe.Close() // it is not needed any more
		ours, theirs := p.open(t)
		if most(ours) <= smallSegment {
			t.Errorf("%s: segments of %d bytes at first", name, most(ours))
		}
		spoil(ours, theirs)
		if ours, theirs = p.open(t); most(ours) > smallSegment || most(theirs) > smallSegment {
			t.Errorf("%s: then segments of %d and %d bytes, want %d at most", name, most(ours), most(theirs), smallSegment)
		}
	}
}
