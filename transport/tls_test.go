package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"
)

func testIdentity(t testing.TB) *Identity {
	t.Helper()
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func testTLS(t testing.TB, id *Identity, role Role, peers ...*Identity) *tls.Config {
	t.Helper()
	var ids []PeerID
	for _, p := range peers {
		ids = append(ids, p.ID())
	}
	config, err := tlsConfig(Pinned{id, ids}, role)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// handshake runs TLS between two configurations and gives both outcomes. The
// client reads once, since it learns only then that it was refused.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	a, b := connected(t)
	a.SetDeadline(time.Now().Add(10 * time.Second))
	b.SetDeadline(time.Now().Add(10 * time.Second))
	done := make(chan error, 1)
	go func() { // ends with the handshake
		s := tls.Server(b, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		b.Close()
		done <- err
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	a.Close()
	return clientErr, <-done
}

// connected are the ends of a connection whose writers do not wait for readers,
// as they would in a net.Pipe: both sides of TLS may have something to say.
func connected(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err == nil {
		b, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestTLSPins(t *testing.T) {
	sender, receiver, other := testIdentity(t), testIdentity(t), testIdentity(t)
	as := func(c *tls.Config, id *Identity, role Role) *tls.Config {
		certificate, err := id.selfSign(role)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{certificate}
		return c
	}
	dial := func(peers ...*Identity) *tls.Config { return testTLS(t, sender, RoleSource, peers...) }
	listen := func(peers ...*Identity) *tls.Config { return testTLS(t, receiver, RoleDestination, peers...) }
	for _, c := range []struct {
		name           string
		client, server *tls.Config
		clientWrong    PeerID // whom the client refuses
		serverWrong    PeerID // whom the server refuses
	}{
		{name: "both listed", client: dial(receiver), server: listen(sender)},
		{name: "one of several", client: dial(other, receiver), server: listen(other, sender)},
		{name: "server not listed", client: dial(other), server: listen(sender), clientWrong: receiver.ID()},
		{name: "client not listed", client: dial(receiver), server: listen(other), serverWrong: sender.ID()},
		{name: "client lists nobody", client: dial(), server: listen(sender), clientWrong: receiver.ID()},
		{name: "server lists nobody", client: dial(receiver), server: listen(), serverWrong: sender.ID()},
		{name: "receiver dials", client: as(dial(receiver), sender, RoleDestination), server: listen(sender), serverWrong: sender.ID()},
		{name: "sender listens", client: dial(receiver), server: as(listen(sender), receiver, RoleSource), clientWrong: receiver.ID()},
	} {
		t.Run(c.name, func(t *testing.T) {
			clientErr, serverErr := handshake(t, c.client, c.server)
			checkWrongPeer(t, "client", clientErr, c.clientWrong)
			checkWrongPeer(t, "server", serverErr, c.serverWrong)
			fine := c.clientWrong == PeerID{} && c.serverWrong == PeerID{}
			if fine && (clientErr != nil || serverErr != nil) {
				t.Errorf("client %v, server %v", clientErr, serverErr)
			}
		})
	}
}

func checkWrongPeer(t *testing.T, side string, err error, want PeerID) {
	t.Helper()
	wrong, ok := errors.AsType[*WrongPeerError](err)
	if ok != (want != PeerID{}) || ok && (wrong.Got != want || !errors.Is(err, ErrAuth)) {
		t.Errorf("%s: %v, want to hear of %v", side, err, want)
	}
}

func TestTLSRefusesOldVersions(t *testing.T) {
	sender, receiver := testIdentity(t), testIdentity(t)
	client := testTLS(t, sender, RoleSource, receiver)
	client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	clientErr, serverErr := handshake(t, client, testTLS(t, receiver, RoleDestination, sender))
	if clientErr == nil || serverErr == nil {
		t.Fatalf("TLS 1.2: client %v, server %v", clientErr, serverErr)
	}
}

func TestTLSRefusesNoCertificate(t *testing.T) {
	sender, receiver := testIdentity(t), testIdentity(t)
	client := testTLS(t, sender, RoleSource, receiver)
	client.Certificates = nil
	clientErr, serverErr := handshake(t, client, testTLS(t, receiver, RoleDestination, sender))
	if clientErr == nil || serverErr == nil {
		t.Fatalf("no certificate: client %v, server %v", clientErr, serverErr)
	}
	if err := verifyPeer(Pinned{}, tls.ConnectionState{}, RoleSource); !errors.Is(err, ErrAuth) {
		t.Fatalf("no certificate: %v, want ErrAuth", err)
	}
}

// sessions fails the test when a server gives out a ticket.
type sessions struct{ t *testing.T }

func (s sessions) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (s sessions) Put(key string, c *tls.ClientSessionState) {
	if c != nil {
		s.t.Error("the server gave out a session ticket")
	}
}

func TestTLSHasNoTickets(t *testing.T) {
	sender, receiver := testIdentity(t), testIdentity(t)
	client := testTLS(t, sender, RoleSource, receiver)
	client.ServerName, client.ClientSessionCache = "receiver", sessions{t}
	clientErr, serverErr := handshake(t, client, testTLS(t, receiver, RoleDestination, sender))
	if clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
}

// Neither a clock that is wrong by years nor a year of uptime stops a handshake.
func TestCertificateIsAlwaysValid(t *testing.T) {
	certificate, err := testIdentity(t).selfSign(RoleSource)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.NotBefore.Year() > 1970 || leaf.NotAfter.Year() < 9999 {
		t.Fatalf("valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
}

// The ID that a peer computes from the certificate is the one that its owner
// prints.
func TestCertificateID(t *testing.T) {
	id := testIdentity(t)
	for _, role := range []Role{RoleSource, RoleDestination} {
		certificate, err := id.selfSign(role)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(certificate.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if certificateID(leaf) != id.ID() {
			t.Fatalf("certificate of %v has ID %v", id, certificateID(leaf))
		}
	}
}
