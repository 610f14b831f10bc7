package transport_test

import (
	"path/filepath"
	"testing"

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

func TestCarriers(t *testing.T) {
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) { transporttest.Run(t, c.connect) })
	}
}

func BenchmarkLane(b *testing.B) {
	for _, c := range carriers {
		b.Run(c.name, func(b *testing.B) { transporttest.Bench(b, c.connect) })
	}
}

func connectQUIC(t testing.TB) (transport.Dialer, transport.Listener) {
	sender, receiver := newIdentity(t), newIdentity(t)
	l, err := transport.ListenQUIC("127.0.0.1:0", transport.Pinned{Identity: receiver, Peers: []transport.ID{sender.ID()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &transport.QUICDialer{Addr: l.Addr().String(), Credentials: transport.Pinned{Identity: sender, Peers: []transport.ID{receiver.ID()}}}, l
}

func connectTLS(t testing.TB) (transport.Dialer, transport.Listener) {
	sender, receiver := newIdentity(t), newIdentity(t)
	l, err := transport.ListenTLS("127.0.0.1:0", transport.Pinned{Identity: receiver, Peers: []transport.ID{sender.ID()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &transport.TLSDialer{Addr: l.Addr().String(), Credentials: transport.Pinned{Identity: sender, Peers: []transport.ID{receiver.ID()}}}, l
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
