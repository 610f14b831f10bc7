package transport

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/must"
)

// renew replaces files of a directory by rename, as tools that renew certificates do.
func renew(t *testing.T, dir, from string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Rename(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// rereadPair is two sides over one carrier.
type rereadPair struct {
	t        *testing.T
	dialer   Dialer
	listener Listener
}

// carriers makes a pair over each carrier between hosts.
var carriers = map[string]func(t *testing.T, dials, hears Credentials) rereadPair{
	"quic": func(t *testing.T, dials, hears Credentials) rereadPair {
		l := must.Get(ListenQUIC("127.0.0.1:0", hears, nil))
		return rereadPair{t: t, dialer: &QUICDialer{Addr: l.Addr().String(), Credentials: dials}, listener: l}
	},
	"tls": func(t *testing.T, dials, hears Credentials) rereadPair {
		l := must.Get(ListenTLS("127.0.0.1:0", hears, nil))
		return rereadPair{t: t, dialer: &TLSDialer{Addr: l.Addr().String(), Credentials: dials}, listener: l}
	},
}

// open gives the two ends of a lane that both sides have accepted, or what the dialler
// was reported.
func (p *rereadPair) open() (ours, theirs Lane, err error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	accepted := make(chan Lane, 1)
	go func() { // ends with ctx
		lane, _ := p.listener.Accept(ctx)
		if lane != nil {
			lane.Write([]byte{1})
		}
		accepted <- lane
	}()
	ours, err = p.dialer.Dial(ctx)
	if err == nil {
		p.t.Cleanup(func() { ours.Close() })
		ours.Write([]byte{1})
		_, err = ours.Read(make([]byte, 1))
	}
	if err != nil {
		cancel()
	}
	if theirs = <-accepted; theirs != nil {
		p.t.Cleanup(func() { theirs.Close() })
	}
	return ours, theirs, err
}

// TestRenewedCertificate: a certificate that is replaced while the process lives is shown
// from the next connection on, and its peer is the one that it was. Another name is not.
func TestRenewedCertificate(t *testing.T) {
	for name, carrier := range carriers {
		t.Run(name, func(t *testing.T) {
			ca := newTestCA(t)
			there, here := ca.dir(RoleSource, "src.example"), ca.dir(RoleDestination, "dst.example")
			source := must.Get(LoadCertified(there, RoleSource, []string{"dst.example"}, nil))
			p := carrier(t, source, must.Get(LoadCertified(here, RoleDestination, []string{"other.example", "src.example"}, nil)))
			defer p.listener.Close()
			ours, theirs, err := p.open()
			if err != nil {
				t.Fatal(err)
			}
			dst, src, key := PeerOf(ours), PeerOf(theirs), source.ID()

			both := func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "other.example") }
			renew(t, there, ca.dir(RoleSource, "src.example", both), "client-cert.pem", "client-key.pem")
			renew(t, here, ca.dir(RoleDestination, "dst.example"), "server-key.pem", "server-cert.pem")
			ours, theirs, err = p.open()
			if err != nil {
				t.Fatalf("with renewed certificates: %v", err)
			}
			if !IsPeer(ours, dst) || !IsPeer(theirs, src) || source.ID() == key {
				t.Errorf("peers %v, %v of %v, %v; key renewed %v", PeerOf(ours), PeerOf(theirs), dst, src, source.ID() != key)
			}

			renew(t, there, ca.dir(RoleSource, "other.example"), "client-cert.pem", "client-key.pem")
			if _, theirs, err = p.open(); err != nil || IsPeer(theirs, src) || !IsPeer(theirs, nameID("other.example")) {
				t.Errorf("another allowed name: %v", err)
			}
		})
	}
}

// TestRevokedMeanwhile: a list that appears counts from the next connection on, and stays
// in force when it is spoiled or removed. Each such change is reported once.
func TestRevokedMeanwhile(t *testing.T) {
	for name, carrier := range carriers {
		t.Run(name, func(t *testing.T) {
			ca := newTestCA(t)
			there, here := ca.dir(RoleSource, "src.example"), ca.dir(RoleDestination, "dst.example")
			first := must.Get(readCertificates(os.Open, filepath.Join(there, "client-cert.pem")))[0]
			kept := make(chan error, 16)
			source := must.Get(LoadCertified(there, RoleSource, []string{"dst.example"}, nil))
			p := carrier(t, source, must.Get(LoadCertified(here, RoleDestination, []string{"src.example"}, &FileOptions{Kept: func(err error) { kept <- err }})))
			defer p.listener.Close()
			path := filepath.Join(here, crlFile)
			refused := func(when string) {
				t.Helper()
				for range 3 {
					if _, _, err := p.open(); !errors.Is(err, ErrRefusedByPeer) {
						t.Errorf("%s: %v, want a refusal", when, err)
					}
				}
			}
			told := func(want string) {
				t.Helper()
				select {
				case err := <-kept:
					if e, ok := errors.AsType[*KeptError](err); !ok || !strings.Contains(e.Error(), want) || !strings.Contains(e.Error(), path) {
						t.Errorf("reported %v, want %q", err, want)
					}
				default:
					t.Errorf("%q is not reported", want)
				}
				if len(kept) > 0 {
					t.Errorf("and reported again: %v", <-kept)
				}
			}
			if _, _, err := p.open(); err != nil {
				t.Fatal(err)
			}
			ca.put(path, "X509 CRL", 0o644, ca.revoke(nil, first))
			refused("revoked")
			ca.put(path, "X509 CRL", 0o644, []byte("junk"))
			refused("the list is spoiled")
			told("malformed")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			refused("the list is gone")
			told("no such file")
			renew(t, there, ca.dir(RoleSource, "src.example"), "client-cert.pem", "client-key.pem")
			if _, _, err := p.open(); err != nil {
				t.Errorf("a certificate that is not revoked: %v", err)
			}
		})
	}
}

// TestFilesNotUsable: what is wrong, or cannot be opened, leaves what was read before.
func TestFilesNotUsable(t *testing.T) {
	ca := newTestCA(t)
	dir := ca.dir(RoleSource, "src.example")
	var kept []string
	var broken error
	c, err := LoadCertified(dir, RoleSource, []string{"dst.example"}, &FileOptions{
		Kept: func(err error) { kept = append(kept, err.Error()) },
		Open: func(path string) (*os.File, error) {
			if broken != nil {
				return nil, broken
			}
			return os.Open(path)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	key := c.ID()
	renew(t, dir, ca.dir(RoleSource, "src.example"), "client-cert.pem") // and its key is not there yet
	if first, second := c.ID(), c.ID(); first != key || second != key || len(kept) != 1 || !strings.Contains(kept[0], "client-key.pem: private key does not match") {
		t.Errorf("half of a renewal: renewed %v, reported %q", c.ID() != key, kept)
	}
	broken = errors.New("the process that opens files has ended")
	other := ca.dir(RoleSource, "src.example")
	renew(t, dir, other, "client-cert.pem", "client-key.pem")
	if first, second := c.ID(), c.ID(); first != key || second != key || len(kept) != 2 || !strings.Contains(kept[1], broken.Error()) {
		t.Errorf("a file that cannot be opened: renewed %v, reported %q", c.ID() != key, kept)
	}
	broken = nil
	if time.Sleep(retryWrong); c.ID() == key || len(kept) != 2 {
		t.Errorf("a file that can be opened again: renewed %v, reported %q", c.ID() != key, kept)
	}
	for _, text := range kept {
		if strings.Contains(text, "PRIVATE KEY") || !strings.Contains(text, "what was read before stays in force") {
			t.Errorf("reported %q", text)
		}
	}
}

// TestPeersFileIsReadAgain: who is added to it is heard from the next connection on, and
// who is removed from it no longer.
func TestPeersFileIsReadAgain(t *testing.T) {
	for name, carrier := range carriers {
		t.Run(name, func(t *testing.T) {
			source, dest := testIdentity(t), testIdentity(t)
			path := filepath.Join(t.TempDir(), "peers")
			write := func(id PeerID) {
				t.Helper()
				next := path + ".next"
				if err := os.WriteFile(next, fmt.Appendf(nil, "%v send\n", id), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(next, path); err != nil {
					t.Fatal(err)
				}
			}
			write(testIdentity(t).ID())
			file := must.Get(LoadPeers(path, RoleDestination, nil))
			p := carrier(t, Pinned{source, []PeerID{dest.ID()}}, PinnedFile{Pinned{Identity: dest}, file})
			defer p.listener.Close()
			for i, heard := range []bool{false, true, false} {
				if _, theirs, err := p.open(); (err == nil) != heard || heard && PeerOf(theirs) != source.ID() {
					t.Errorf("%d: %v, want to be heard %v", i, err, heard)
				}
				write([]PeerID{source.ID(), testIdentity(t).ID(), {}}[i])
			}
		})
	}
}

// TestNameID: the ID of a name is its text where that fits, and none of a key.
func TestNameID(t *testing.T) {
	long := "a-host-in-some-rack.of-some-row.dc1.example.com"
	for name, want := range map[string]string{
		"src.example": "src.example", "SRC.Example.": "src.example", "192.0.2.7": "192.0.2.7", "2001:db8::7": "2001:db8::7",
		strings.Repeat("a", 31): strings.Repeat("a", 31), long: "a-host-in-~", "two words": "twowords~", "": "~", "a\x00b": "ab~",
	} {
		id := nameID(name)
		if got := id.String(); got != want && (!strings.HasSuffix(want, "~") || !strings.HasPrefix(got, want)) || got == want && strings.HasSuffix(want, "~") {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
		var back PeerID
		text, _ := id.MarshalText()
		if err := back.UnmarshalText(text); err != nil || back != id {
			t.Errorf("%q came back as %v, %v", text, back, err)
		}
		if _, err := ParsePeerID(id.String()); err == nil {
			t.Errorf("%q was taken for a key", id)
		}
		if asKey := idPrefix + idEncoding.EncodeToString(append(id[:], id.checksum()...)); parses(asKey) {
			t.Errorf("%q was taken for a key", asKey)
		}
	}
	if nameID(long) == nameID(long+".au") {
		t.Error("two long names have one ID")
	}
}

func parses(text string) bool {
	_, err := ParsePeerID(text)
	return err == nil
}
