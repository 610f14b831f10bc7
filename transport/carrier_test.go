package transport_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/transporttest"
)

// carriers are all there are: a new one needs a line here.
var carriers = []struct {
	name    string
	connect transporttest.Connect
}{
	{"quic", connectQUIC},
	{"pipe", func(testing.TB) (transport.Dialer, transport.Listener) { return transport.Pipe() }},
	{"unix", connectUnix},
	{"tls", connectTLS},
}

// either are the carriers of one listener.
var either = []struct {
	name   string
	dialer func(addr string, c transport.Credentials) transport.Dialer
}{
	{"quic", func(addr string, c transport.Credentials) transport.Dialer {
		return &transport.QUICDialer{Addr: addr, Credentials: c}
	}},
	{"tls", func(addr string, c transport.Credentials) transport.Dialer {
		return &transport.TLSDialer{Addr: addr, Credentials: c, Idle: unread}
	}},
}

func TestCarriers(t *testing.T) {
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) { transporttest.Run(t, c.connect) })
	}
	for _, c := range either {
		t.Run("either/"+c.name, func(t *testing.T) {
			transporttest.Run(t, func(t testing.TB) (transport.Dialer, transport.Listener) { return connectEither(t, c.dialer) })
		})
	}
}

func BenchmarkLane(b *testing.B) {
	for _, c := range carriers {
		b.Run(c.name, func(b *testing.B) { transporttest.Bench(b, c.connect) })
	}
}

// TestCarrierTells: a lane between hosts knows its round trip as soon as it is dialled, and
// what it can have on its way, which is how many lanes a path needs.
func TestCarrierTells(t *testing.T) {
	for _, c := range carriers {
		d, l := c.connect(t)
		lane, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, far := transport.CarrierOf(lane), c.name == "quic" || c.name == "tls"
		if got.Name != c.name || far != (got.RTT > 0 && got.RTT < time.Second) || far != (got.Window > 1<<20) {
			t.Errorf("%s: %+v", c.name, got)
		}
		lane.Close()
		l.Close()
	}
}

// unread is how long a lane over TLS may stay unread in a test: Idle counts that as silence.
const unread = 30 * time.Second

func connectQUIC(t testing.TB) (transport.Dialer, transport.Listener) {
	sender, receiver := newIdentity(t), newIdentity(t)
	l, err := transport.ListenQUIC("127.0.0.1:0", transport.Pinned{Identity: receiver, Peers: []transport.PeerID{sender.ID()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &transport.QUICDialer{Addr: l.Addr().String(), Credentials: transport.Pinned{Identity: sender, Peers: []transport.PeerID{receiver.ID()}}}, l
}

func connectTLS(t testing.TB) (transport.Dialer, transport.Listener) {
	sender, receiver := newIdentity(t), newIdentity(t)
	l, err := transport.ListenTLS("127.0.0.1:0", transport.Pinned{Identity: receiver, Peers: []transport.PeerID{sender.ID()}}, &transport.ListenOptions{Idle: unread})
	if err != nil {
		t.Fatal(err)
	}
	return &transport.TLSDialer{Addr: l.Addr().String(), Credentials: transport.Pinned{Identity: sender, Peers: []transport.PeerID{receiver.ID()}}, Idle: unread}, l
}

func connectEither(t testing.TB, dialer func(string, transport.Credentials) transport.Dialer) (transport.Dialer, transport.Listener) {
	sender, receiver := newIdentity(t), newIdentity(t)
	l, err := transport.ListenEither("127.0.0.1:0", transport.Pinned{Identity: receiver, Peers: []transport.PeerID{sender.ID()}}, &transport.ListenOptions{Idle: unread})
	if err != nil {
		t.Fatal(err)
	}
	return dialer(l.Addr().String(), transport.Pinned{Identity: sender, Peers: []transport.PeerID{receiver.ID()}}), l
}

func newIdentity(t testing.TB) *transport.Identity {
	id, err := transport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func connectUnix(t testing.TB) (transport.Dialer, transport.Listener) {
	path := filepath.Join(t.TempDir(), "mig.sock")
	l, err := transport.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	return &transport.UnixDialer{Path: path}, l
}
