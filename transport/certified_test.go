package transport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/must"
)

// testCA issues certificates that may have any flaw.
type testCA struct {
	*testing.T
	cert   *x509.Certificate
	key    crypto.Signer
	serial int64
}

func newTestCA(t *testing.T, change ...func(*x509.Certificate)) *testCA {
	t.Helper()
	ca := &testCA{T: t, serial: 1}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.serial), Subject: pkix.Name{CommonName: t.Name()}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	for _, f := range change {
		f(template)
	}
	ca.key = ca.newKey()
	ca.cert = ca.parse(must.Get(x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)))
	return ca
}

func (ca *testCA) newKey() crypto.Signer {
	return must.Get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func (ca *testCA) parse(der []byte) *x509.Certificate { return must.Get(x509.ParseCertificate(der)) }

// issue makes a certificate for a role and a name.
func (ca *testCA) issue(key crypto.Signer, role Role, name string, change ...func(*x509.Certificate)) *x509.Certificate {
	ca.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.serial), Subject: pkix.Name{CommonName: "ignored.example"}, DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{role.usage()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	for _, f := range change {
		f(template)
	}
	return ca.parse(must.Get(x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)))
}

func (ca *testCA) revoke(change func(*x509.RevocationList), certs ...*x509.Certificate) []byte {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	if change != nil {
		change(list)
	}
	return must.Get(x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key))
}

func (ca *testCA) put(path, kind string, mode os.FileMode, ders ...[]byte) {
	ca.Helper()
	var text strings.Builder
	for _, der := range ders {
		pem.Encode(&text, &pem.Block{Type: kind, Bytes: der})
	}
	if err := errors.Join(os.WriteFile(path, []byte(text.String()), 0o600), os.Chmod(path, mode)); err != nil {
		ca.Fatal(err)
	}
}

// dir is a new directory with all that a role needs.
func (ca *testCA) dir(role Role, name string, change ...func(*x509.Certificate)) string {
	ca.Helper()
	dir, key := ca.TempDir(), ca.newKey()
	ca.put(filepath.Join(dir, caFile), certificateBlock, 0o644, ca.cert.Raw)
	ca.put(filepath.Join(dir, role.file("cert")), certificateBlock, 0o644, ca.issue(key, role, name, change...).Raw)
	ca.put(filepath.Join(dir, role.file("key")), keyBlock, 0o600, must.Get(x509.MarshalPKCS8PrivateKey(key)))
	return dir
}

func (ca *testCA) load(role Role, name string, peers ...string) *Certified {
	ca.Helper()
	c, err := LoadCertified(ca.dir(role, name), role, peers, nil)
	if err != nil {
		ca.Fatal(err)
	}
	return c
}

// as shows a certificate that LoadCertified would have refused.
func (c *Certified) as(cert *x509.Certificate, key crypto.Signer) *Certified {
	return c.but(func(c *certified) {
		c.cert = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	})
}

// but has what its files do not say.
func (c *Certified) but(change func(*certified)) *Certified {
	other := *c.files.now()
	change(&other)
	return &Certified{c.names, &reread[*certified]{good: &other}}
}

// revoking knows a list of revoked certificates.
func (c *Certified) revoking(list []byte) *Certified {
	return c.but(func(c *certified) {
		c.ca.revoked = []*x509.RevocationList{must.Get(x509.ParseRevocationList(list))}
	})
}

func selfSigned(t *testing.T, like *Certified) *Certified {
	cert := must.Get(testIdentity(t).selfSign(RoleSource))
	return like.as(must.Get(x509.ParseCertificate(cert.Certificate[0])), cert.PrivateKey.(crypto.Signer))
}

func TestCertifiedHandshake(t *testing.T) {
	ca, stranger := newTestCA(t), newTestCA(t)
	key := ca.newKey()
	client := func(peers ...string) *Certified { return ca.load(RoleSource, "src.example", peers...) }
	server := func(peers ...string) *Certified { return ca.load(RoleDestination, "dst.example", peers...) }
	good, heard := client("dst.example"), server("src.example")
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	revoked := ca.issue(key, RoleSource, "src.example")
	strict := heard.revoking(ca.revoke(nil, revoked))
	stale := heard.revoking(ca.revoke(func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate }))
	address := func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, []net.IP{net.IPv4(192, 0, 2, 7)} }
	withIP := server("src.example").as(ca.issue(key, RoleDestination, "", address), key)
	nameless := func(c *x509.Certificate) { c.DNSNames, c.Subject = nil, pkix.Name{CommonName: "src.example"} }
	for _, c := range []struct {
		name           string
		client, server *Certified
		clientSays     string // why the client refuses
		serverSays     string // why the server refuses
		hint           string
	}{
		{"both named", good, heard, "", "", ""},
		{"one of several", client("no.example", "dst.example"), server("no.example", "src.example"), "", "", ""},
		{"by address", client("192.0.2.7"), withIP, "", "", ""},
		{"not revoked", good, strict, "", "", ""},
		{"server with another name", client("other.example"), heard, "its names are not what is expected here, other.example", "", "--peer-name dst.example"},
		{"server with another address", client("192.0.2.8"), withIP, "expected here, 192.0.2.8", "", "--peer-name 192.0.2.7"},
		{"client with another name", good, server("other.example"), "", "its names are not what is expected here, other.example", "--peer-name src.example"},
		{"client names nobody", client(), heard, "expected here, no name", "", "--peer-name dst.example"},
		{"server names nobody", good, server(), "", "expected here, no name", "--peer-name src.example"},
		{"name only as common name", good.as(ca.issue(key, RoleSource, "", nameless), key), heard, "", "'CN=src.example': its names are not", "say --peer-name 'CN=src.example'"},
		{"client's certificate is a server's", good.as(ca.issue(key, RoleDestination, "src.example"), key), heard, "", "it is not for a source: the extended key usage clientAuth", "extended key usage clientAuth"},
		{"server's certificate is a client's", good, heard.as(ca.issue(key, RoleSource, "dst.example"), key), "it is not for a destination: the extended key usage serverAuth", "", "extended key usage serverAuth"},
		{"certificate for any use", good.as(ca.issue(key, RoleSource, "src.example", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), key), heard, "", "it is not for a source", "clientAuth"},
		{"certificate for no use", good.as(ca.issue(key, RoleSource, "src.example", func(c *x509.Certificate) { c.ExtKeyUsage = nil }), key), heard, "", "it is not for a source", "clientAuth"},
		{"expired", good.as(ca.issue(key, RoleSource, "src.example", expired), key), heard, "", "it is valid from ", "issue a new one"},
		{"of another CA with the same name", good.as(stranger.issue(key, RoleSource, "src.example"), key), heard, "", "not issued by the CA in ca-cert.pem", "the same ca-cert.pem"},
		{"self-signed", selfSigned(t, good), heard, "", "not issued by the CA", "the same ca-cert.pem"},
		{"revoked", good.as(revoked, key), strict, "", "the CA has revoked it", "issue a new one"},
		{"list out of date", good, stale, "", "ca-crl.pem, which says what was revoked, is out of date", "a new list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clientErr, serverErr := handshake(t, must.Get(tlsConfig(c.client.renew(), RoleSource)), must.Get(tlsConfig(c.server.renew(), RoleDestination)))
			checkCertificate(t, clientErr, c.clientSays, c.server.ID(), c.hint)
			checkCertificate(t, serverErr, c.serverSays, c.client.ID(), c.hint)
			if fine := c.clientSays+c.serverSays == ""; fine != (clientErr == nil && serverErr == nil) {
				t.Errorf("client %v, server %v", clientErr, serverErr)
			}
		})
	}
}

// checkCertificate wants to read who was refused, why, and what to do.
func checkCertificate(t *testing.T, err error, says string, who PeerID, hint string) {
	t.Helper()
	wrong, ok := errors.AsType[*CertificateError](err)
	switch {
	case ok != (says != ""):
		t.Errorf("%v, want to read %q", err, says)
	case ok && (!errors.Is(err, ErrAuth) || !strings.Contains(wrong.Error(), says) || !strings.Contains(wrong.Of, who.String()) || !strings.Contains(wrong.Hint, hint)):
		t.Errorf("%q, hint %q, want %q of %v and hint %q", wrong, wrong.Hint, says, who, hint)
	}
}

// A CA may have others issue its certificates, which the peers then show.
func TestCertifiedByIntermediate(t *testing.T) {
	ca := newTestCA(t)
	key := ca.newKey()
	ca.serial = 100
	middle := &testCA{T: t, key: key, serial: 200}
	middle.cert = ca.issue(key, RoleSource, "", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.DNSNames, c.ExtKeyUsage = true, true, nil, nil
		c.KeyUsage, c.Subject = x509.KeyUsageCertSign, pkix.Name{CommonName: "in the middle"}
	})
	dir, own := ca.dir(RoleSource, "src.example"), ca.newKey()
	ca.put(filepath.Join(dir, "client-cert.pem"), certificateBlock, 0o644, middle.issue(own, RoleSource, "src.example").Raw, middle.cert.Raw)
	ca.put(filepath.Join(dir, "client-key.pem"), "EC PRIVATE KEY", 0o600, must.Get(x509.MarshalECPrivateKey(own.(*ecdsa.PrivateKey))))
	client, err := LoadCertified(dir, RoleSource, []string{"dst.example"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := ca.load(RoleDestination, "dst.example", "src.example")
	clientErr, serverErr := handshake(t, must.Get(tlsConfig(client.renew(), RoleSource)), must.Get(tlsConfig(server.renew(), RoleDestination)))
	if clientErr != nil || serverErr != nil {
		t.Errorf("client %v, server %v", clientErr, serverErr)
	}
	server = server.revoking(ca.revoke(nil, middle.cert))
	_, serverErr = handshake(t, must.Get(tlsConfig(client.renew(), RoleSource)), must.Get(tlsConfig(server.renew(), RoleDestination)))
	checkCertificate(t, serverErr, "the CA has revoked it", client.ID(), "")
}

// Every file that cannot be used is named, with what is wrong and what to do.
func TestLoadCertifiedMistakes(t *testing.T) {
	ca := newTestCA(t)
	notYet := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	text := func(name, text string) func(string) {
		return func(dir string) { os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	}
	chmod := func(name string, mode os.FileMode) func(string) {
		return func(dir string) { os.Chmod(filepath.Join(dir, name), mode) }
	}
	remove := func(name string) func(string) {
		return func(dir string) { os.Remove(filepath.Join(dir, name)) }
	}
	crl := func(der []byte) func(string) {
		return func(dir string) { ca.put(filepath.Join(dir, crlFile), "X509 CRL", 0o644, der) }
	}
	own := func(change func(*x509.Certificate)) func(string) {
		return func(dir string) {
			key := ca.newKey()
			ca.put(filepath.Join(dir, "server-cert.pem"), certificateBlock, 0o644, ca.issue(key, RoleDestination, "dst.example", change).Raw)
			ca.put(filepath.Join(dir, "server-key.pem"), keyBlock, 0o600, must.Get(x509.MarshalPKCS8PrivateKey(key)))
		}
	}
	roots := func(other *testCA) func(string) {
		return func(dir string) { ca.put(filepath.Join(dir, caFile), certificateBlock, 0o644, other.cert.Raw) }
	}
	junk := string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: []byte("junk")}))
	for _, c := range []struct {
		name, file string
		spoil      func(dir string)
		says, hint string
	}{
		{"no CA", "ca-cert.pem", remove("ca-cert.pem"), "no such file", "server-cert.pem and server-key.pem"},
		{"CA not in PEM", "ca-cert.pem", text("ca-cert.pem", "junk"), `no PEM block "CERTIFICATE"`, "in PEM"},
		{"CA broken", "ca-cert.pem", text("ca-cert.pem", junk), "malformed", "openssl x509"},
		{"CA that others may write", "ca-cert.pem", chmod("ca-cert.pem", 0o666), "mode 0666 lets others change it", ""},
		{"CA that is none", "ca-cert.pem", roots(newTestCA(t, func(c *x509.Certificate) { c.IsCA = false })), "is no CA", "CA:TRUE"},
		{"CA expired", "ca-cert.pem", roots(newTestCA(t, expired)), "it is valid from", "set this host's clock"},
		{"another CA", "server-cert.pem", roots(newTestCA(t)), "not issued by the CA in ca-cert.pem", "both hosts need the same"},
		{"too large", "ca-cert.pem", text("ca-cert.pem", strings.Repeat("\n", maxPublicFile+1)), "want at most", ""},
		{"no certificate", "server-cert.pem", remove("server-cert.pem"), "no such file", "server-cert.pem and server-key.pem"},
		{"certificate expired", "server-cert.pem", own(expired), "it is valid from", "issue a new one"},
		{"certificate not valid yet", "server-cert.pem", own(notYet), "it is valid from", "clock"},
		{"certificate of a client", "server-cert.pem", own(func(c *x509.Certificate) { c.ExtKeyUsage[0] = x509.ExtKeyUsageClientAuth }), "not for a destination", "serverAuth"},
		{"no key", "server-key.pem", remove("server-key.pem"), "no such file", "chmod 600"},
		{"key that others may read", "server-key.pem", chmod("server-key.pem", 0o604), "mode 0604 lets others read the key", "chmod 600"},
		{"key in another form", "server-key.pem", text("server-key.pem", "junk"), "failed to find any PEM data", "without a passphrase"},
		{"key of another", "server-key.pem", func(dir string) {
			ca.put(filepath.Join(dir, "server-key.pem"), keyBlock, 0o600, must.Get(x509.MarshalPKCS8PrivateKey(ca.newKey())))
		}, "private key does not match", "that server-cert.pem was made for"},
		{"list not in PEM", "ca-crl.pem", text("ca-crl.pem", "junk"), `no PEM block "X509 CRL"`, "remove the file"},
		{"list broken", "ca-crl.pem", crl([]byte("junk")), "malformed", "a new list"},
		{"list of another CA", "ca-crl.pem", crl(newTestCA(t).revoke(nil)), "not signed by the CA", "a new list"},
		{"list out of date", "ca-crl.pem", crl(ca.revoke(func(l *x509.RevocationList) { l.NextUpdate = time.Now().Add(-time.Minute) })), "it is valid from", "a new list"},
		{"list that means something else", "ca-crl.pem", crl(ca.revoke(func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte{5, 0}}}
		})), "critical extension 2.5.29.28", "a new list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := ca.dir(RoleDestination, "dst.example")
			c.spoil(dir)
			_, err := LoadCertified(dir, RoleDestination, nil, nil)
			wrong, ok := errors.AsType[*CertificateError](err)
			if !ok || !errors.Is(err, ErrAuth) || wrong.Of != filepath.Join(dir, c.file) || !strings.Contains(wrong.Error(), c.says) || wrong.Hint == "" || !strings.Contains(wrong.Hint, c.hint) {
				t.Errorf("%v, want %s and %q with a hint of %q, got %+v", err, c.file, c.says, c.hint, wrong)
			}
			if strings.Count(fmt.Sprint(err), c.file) > 2 {
				t.Errorf("%v names the file again and again", err)
			}
		})
	}
}

// A certificate that its own CA has revoked is not even shown.
func TestLoadCertifiedRevoked(t *testing.T) {
	ca := newTestCA(t)
	dir := ca.dir(RoleDestination, "dst.example")
	certs, err := readCertificates(os.Open, filepath.Join(dir, "server-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca.put(filepath.Join(dir, crlFile), "X509 CRL", 0o644, ca.revoke(nil, certs[0]))
	if _, err := LoadCertified(dir, RoleDestination, nil, nil); err == nil || !strings.Contains(err.Error(), "the CA has revoked it") {
		t.Errorf("revoked: %v", err)
	}
}

// The role that a certificate was loaded for is the only one it is used in.
func TestCertifiedOtherRole(t *testing.T) {
	c := newTestCA(t).load(RoleDestination, "dst.example", "src.example")
	_, err := (&QUICDialer{Addr: "127.0.0.1:9", Credentials: c}).Dial(t.Context())
	if err == nil || !strings.Contains(err.Error(), "was loaded as that of a destination") {
		t.Errorf("dial with it: %v", err)
	}
}

// Nothing that prints it prints the key.
func TestCertifiedHidesKey(t *testing.T) {
	c := newTestCA(t).load(RoleSource, "src.example")
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, c); got != c.ID().String() {
			t.Errorf("%s prints %q", format, got)
		}
	}
}

// Over QUIC it is what it is with keys: the peers know each other by the same
// IDs, and a refused peer receives the reason.
func TestCertifiedQUIC(t *testing.T) {
	p := newQUICPair(t)
	p.listener.Close()
	ca := newTestCA(t)
	client, server := ca.load(RoleSource, "src.example", "dst.example"), ca.load(RoleDestination, "dst.example", "src.example")
	refused := make(chan error, 8)
	l, err := ListenQUIC("127.0.0.1:0", server, &ListenOptions{Refused: func(err error) { refused <- err }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.listener = l.(*quicListener)
	p.dialer = &QUICDialer{Addr: l.Addr().String(), Credentials: client}
	ours := p.dial(t)
	theirs := p.accept(t)
	if ours.Peer() != nameID("dst.example") || theirs.Peer() != nameID("src.example") {
		t.Errorf("peers %v and %v, want them by their names", ours.Peer(), theirs.Peer())
	}

	p.dialer.Credentials = ca.load(RoleSource, "src.example", "other.example")
	_, err = p.dialer.Dial(t.Context())
	checkCertificate(t, err, "expected here, other.example", server.ID(), "--peer-name dst.example")
	if err := <-refused; !errors.Is(err, ErrRefusedByPeer) {
		t.Errorf("the listener reports %v, want ErrRefusedByPeer", err)
	}

	p.dialer.Credentials = ca.load(RoleSource, "other.example", "dst.example")
	lane, err := p.dialer.Dial(t.Context())
	if err == nil {
		defer lane.Close()
		_, err = lane.Read(make([]byte, 1))
	}
	if !errors.Is(err, ErrRefusedByPeer) {
		t.Errorf("%v, want ErrRefusedByPeer", err)
	}
	checkCertificate(t, <-refused, "expected here, src.example", p.dialer.Credentials.ID(), "--peer-name other.example")

	p.dialer.Credentials = Pinned{testIdentity(t), []PeerID{server.ID()}}
	lane, err = p.dialer.Dial(t.Context())
	if err == nil {
		defer lane.Close()
		_, err = lane.Read(make([]byte, 1))
	}
	if !errors.Is(err, ErrRefusedByPeer) {
		t.Errorf("a self-signed certificate: %v, want ErrRefusedByPeer", err)
	}
}
