package input

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
)

// IdentityHelp is the part of the help texts about keys.
const IdentityHelp = `Each side has a key, made on first use, and names the other by its identity:
run ` + "`mig-send id`" + ` on the source, ` + "`mig-recv id`" + ` on the destination, and give each
what the other printed with --peer. The key is in send.key or recv.key below
$XDG_CONFIG_HOME/migpipe if that variable is set, else in /etc/migpipe for root
and in ~/.config/migpipe for everybody else; --identity FILE names another one. A
directory that is missing is made, but none above it. No other user may read the key;
a group that the program is in may, if root owns the file.
` + peersHelp + `

` + tlsHelp

// Auth say who this side is, and who the peer has to be.
type Auth struct {
	Identity  string
	Peers     []string
	PeersFile string
	TLSDir    string
	PeerNames []string
	Idle      time.Duration // silence after which a connection counts as lost

	Open func(path string) (*os.File, error) // opens a file of the credentials
	Warn func(text string)                   // reports what is wrong beside the migration
}

// DefaultIdentity is the file of a program's key, without --identity. Each program has its own
// key: to send and to receive are separate permissions.
func DefaultIdentity(key string) (string, error) {
	if os.Getenv("XDG_CONFIG_HOME") == "" && os.Geteuid() == 0 {
		return filepath.Join("/etc/migpipe", key), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "migpipe", key), nil
}

// LoadIdentity gives the key in path, or in the default place.
func LoadIdentity(path, key string) (*transport.Identity, error) {
	if path == "" {
		var err error
		if path, err = DefaultIdentity(key); err == nil && os.Getenv("XDG_CONFIG_HOME") == "" && os.Geteuid() != 0 {
			err = safefile.MakeDir(filepath.Dir(filepath.Dir(path))) // ~/.config, which a new user may not have yet
		}
		if err != nil {
			return nil, ui.Mistakef("name a key file with --identity", "no place for a key: %v", err)
		}
	}
	id, err := transport.LoadIdentity(path)
	if err != nil {
		return nil, &transport.Fault{Code: transport.CodeAuth, Err: &keyError{err, path}}
	}
	return id, nil
}

// keyError is why a key file cannot be used.
type keyError struct {
	error
	path string
}

func (e *keyError) Unwrap() error { return e.error }

func (e *keyError) Hint() string {
	remedy := safefile.Remedy(e.error)
	switch {
	case errors.Is(e.error, fs.ErrPermission):
		return "run as the owner of the file, or name another one with --identity"
	case remedy != "":
		return remedy
	case errors.Is(e.error, safefile.ErrUntrusted):
		return "run as the user that owns what is named, or name a file of this user's with --identity"
	case errors.Is(e.error, fs.ErrNotExist):
		return "make that directory first, or name a file elsewhere with --identity"
	}
	return "name another file with --identity, or remove it to have a new key made"
}

// parsePeers reads the --peer flags.
func parsePeers(flags []string) ([]transport.PeerID, error) {
	ids := make([]transport.PeerID, len(flags))
	for i, flag := range flags {
		id, err := transport.ParsePeerID(flag)
		if err != nil {
			return nil, ui.Mistakef("copy what the `id` command of the other side prints", "--peer: %s", ui.PlainText(err))
		}
		ids[i] = id
	}
	return ids, nil
}

// peersHelp is the part of the help texts about --peers-file.
const peersHelp = `--peers-file names a file with such identities, one a line; what follows a # is a
comment. The word send or recv behind an identity permits only that, so that both
programs may share a file. It has to belong to this user or to root, and no other user
may be able to write it or a directory on the way to it.`

// loadPeers reads --peers-file, and gives nil where there is none.
func (a *Auth) loadPeers(s Side) (*transport.PeersFile, error) {
	if a.PeersFile == "" {
		return nil, nil
	}
	file, err := transport.LoadPeers(a.PeersFile, s.laneRole(), a.fileOptions())
	if err != nil {
		return nil, ui.Mistakef("name a file that only this user or root can write, with one identity a line as the `id` command of the other side prints it, behind it send or recv or nothing, and comments behind #", "--peers-file %s", ui.PlainText(err))
	}
	return file, nil
}

// fileOptions are how credentials read their files again.
func (a *Auth) fileOptions() *transport.FileOptions {
	return &transport.FileOptions{Open: a.Open, Kept: func(err error) { a.Warn(ui.PlainText(err)) }}
}

// tlsHelp is the part of the help texts about --tls-dir.
const tlsHelp = `Where a CA issues certificates, --tls-dir DIR takes the place of the identities.
DIR has the files that QEMU and libvirt have for migrations: ca-cert.pem, if the CA
revokes certificates ca-crl.pem, and client-cert.pem and client-key.pem for mig-send,
server-cert.pem and server-key.pem for mig-recv. A certificate must have the
extended key usage of its role, clientAuth or serverAuth. mig-send wants the host
of --to among the server's names, or --peer-name NAME; mig-recv hears the clients
that --peer-name lists. Names are subjectAltNames. A NAME with a = is all of the
holder's name, as 'CN=host,O=org', which certificates have that were made for QEMU; the
common name alone does not count.
A migration is between two names, so that keys may be renewed while it runs: files that
have changed, and --peers-file, are read again for each connection. One that cannot be
used leaves in force what was read before, and a warning says why.`

// certified are the credentials that --tls-dir and --peer-name say.
func (a *Auth) certified(address string, s Side) (transport.Credentials, error) {
	if len(a.Peers) > 0 || a.PeersFile != "" || a.Identity != "" {
		return nil, ui.Mistakef("certificates take the place of keys that are exchanged: leave one out", "--tls-dir excludes --peer, --peers-file and --identity")
	}
	names := a.PeerNames
	if len(names) == 0 {
		if s.Role == journal.Destination {
			return nil, ui.Mistakef("name each host that may send, as its client-cert.pem does", "no --peer-name is given")
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		names = []string{CertificateName(host)}
	}
	certified, err := transport.LoadCertified(a.TLSDir, s.laneRole(), names, a.fileOptions())
	if err != nil {
		return nil, &transport.Fault{Code: transport.CodeAuth, Err: err}
	}
	return certified, nil
}

// CertificateName is what the certificate of a host is expected to say. An address has no
// zone there: a zone means something on one host only (RFC 4007, section 6).
func CertificateName(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.WithZone("").String()
	}
	return host
}
