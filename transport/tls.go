package transport

import (
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// ALPN is the protocol's name in TLS (RFC 7301); the number is that of the wire
// format that both sides must understand before they can say anything else.
const ALPN = "mig/1"

// Role is what a certificate permits its holder to do.
//
// With [Certified] the CA certifies it. With [Pinned], where certificates are self-signed, the peer
// itself does, which prevents the use of a key for the other purpose by mistake. The permission is
// then the allow list of each side. Give the two programs of a host different keys, so that neither
// can take the place of the other.
type Role int

// The roles. A source dials, and a destination listens.
const (
	RoleSource Role = iota
	RoleDestination
)

// String names the role.
func (r Role) String() string {
	if r == RoleSource {
		return "source"
	}
	return "destination"
}

// usage is the role in a certificate (RFC 5280, section 4.2.1.12).
func (r Role) usage() x509.ExtKeyUsage {
	if r == RoleSource {
		return x509.ExtKeyUsageClientAuth
	}
	return x509.ExtKeyUsageServerAuth
}

// ErrAuth is wrapped by every failure to authenticate: this side does not admit the peer
// ([WrongPeerError], [CertificateError]), or the peer does not admit this side
// ([ErrRefusedByPeer]).
var ErrAuth = errors.New("authentication failed")

// ErrRefusedByPeer is the error for a peer that does not list this side's ID or name, lists it for
// the other role, or does not trust its certificate.
var ErrRefusedByPeer error = refusedByPeer{}

type refusedByPeer struct{}

func (refusedByPeer) Error() string { return "the peer refused this side's identity" }
func (refusedByPeer) Unwrap() error { return ErrAuth }

// WrongPeerError is the error for a peer that is not in the allow list, or that showed a
// certificate for another role.
type WrongPeerError struct {
	Got  PeerID   // who it is
	Want []PeerID // who it might have been
	Role Role     // what its certificate has to permit
}

// Error names the peers in full, so that they can be compared and copied.
func (e *WrongPeerError) Error() string {
	if slices.Contains(e.Want, e.Got) {
		return fmt.Sprintf("transport: %v: the certificate of peer %v is not that of a %v", ErrAuth, e.Got, e.Role)
	}
	want := make([]string, len(e.Want))
	for i, id := range e.Want {
		want[i] = id.String()
	}
	return fmt.Sprintf("transport: %v: the peer is %v, expected %s", ErrAuth, e.Got, cmp.Or(strings.Join(want, " or "), "nobody"))
}

// Unwrap gives [ErrAuth].
func (e *WrongPeerError) Unwrap() error { return ErrAuth }

// Credentials are how one side of a lane proves who it is and judges who the
// other is: [Pinned] by keys that both know, [Certified] by a CA that both trust.
// Everything behind the handshake is the same.
type Credentials interface {
	// ID is the identity of this side, by its key or by its name.
	ID() PeerID

	// renew reads again what lies in files and has changed, for one connection.
	renew() credentials

	// peer is what this side knows the holder of a certificate by that it has verified:
	// one ID or more. It does not change while the process lives.
	peer(leaf *x509.Certificate) []PeerID
}

// credentials are those of one connection.
type credentials interface {
	// certificate is what this side shows as a role.
	certificate(role Role) (tls.Certificate, error)

	// verify returns why the peer with these certificates, its own first, is not admitted in a
	// role. TLS proves, before the handshake is done, that the peer holds the key of the first.
	verify(shown []*x509.Certificate, role Role) error
}

// Pinned is the key of this side and the list of the identities of its peers. An empty list admits
// no peer.
type Pinned struct {
	Identity *Identity
	Peers    []PeerID
}

// ID is that of the key.
func (p Pinned) ID() PeerID { return p.Identity.ID() }

func (p Pinned) renew() credentials { return p }

func (p Pinned) certificate(role Role) (tls.Certificate, error) { return p.Identity.shown[role]() }

// verify compares the key, then the role.
func (p Pinned) verify(shown []*x509.Certificate, role Role) error {
	leaf := shown[0]
	got := certificateID(leaf)
	if !slices.Contains(p.Peers, got) || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{role.usage()}) {
		return &WrongPeerError{Got: got, Want: slices.Clone(p.Peers), Role: role}
	}
	return nil
}

func (p Pinned) peer(leaf *x509.Certificate) []PeerID { return []PeerID{certificateID(leaf)} }

// PinnedFile is [Pinned] with more peers in a file.
type PinnedFile struct {
	Pinned
	File *PeersFile
}

// Files are the paths that are read again.
func (p PinnedFile) Files() []string { return p.File.Files() }

func (p PinnedFile) renew() credentials {
	return Pinned{p.Identity, slices.Concat(p.Peers, p.File.IDs())}
}

// selfSign makes a certificate that is valid for ever: peers compare keys
// and roles, never dates, so no host's clock can stop a migration.
func (i *Identity) selfSign(role Role) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "migpipe"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // "no well-defined expiration": RFC 5280, section 4.1.2.5
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{role.usage()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, i.key.Public(), i.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("transport: make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.key}, nil
}

// tlsConfig makes this side a role and admits only peers with the other role
// that the credentials know.
//
// There is no resumption and thus no 0-RTT: a replayed HELLO or COMMIT would
// not be harmless.
func tlsConfig(c credentials, role Role) (*tls.Config, error) {
	certificate, err := c.certificate(role)
	if err != nil {
		return nil, err
	}
	other := RoleSource + RoleDestination - role
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // VerifyConnection verifies, by the same rules on both sides
		VerifyConnection:       func(s tls.ConnectionState) error { return verifyPeer(c, s, other) },
		SessionTicketsDisabled: true,

		// Small records are for pages that are shown as they come. QUIC has none of its own.
		DynamicRecordSizingDisabled: true,
	}, nil
}

func verifyPeer(c credentials, s tls.ConnectionState, role Role) error {
	if len(s.PeerCertificates) == 0 {
		return fmt.Errorf("transport: %w: the peer showed no certificate", ErrAuth)
	}
	return c.verify(s.PeerCertificates, role)
}
