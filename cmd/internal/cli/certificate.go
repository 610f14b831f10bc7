package cli

import (
	"net"
	"net/netip"

	"github.com/migpipe/migpipe/transport"
)

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
func (c *common) certified(address string) (transport.Credentials, error) {
	if len(c.peers) > 0 || c.peersFile != "" || c.identity != "" {
		return nil, mistakef("certificates take the place of keys that are exchanged: leave one out", "--tls-dir excludes --peer, --peers-file and --identity")
	}
	names := c.peerNames
	if len(names) == 0 {
		if c.role == sink {
			return nil, mistakef("name each host that may send, as its client-cert.pem does", "no --peer-name is given")
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		names = []string{certificateName(host)}
	}
	certified, err := transport.LoadCertified(c.tlsDir, c.role.lanes(), names, c.fileOptions())
	if err != nil {
		return nil, &transport.Fault{Code: transport.CodeAuth, Err: err}
	}
	return certified, nil
}

// certificateName is what the certificate of a host is expected to say. An address has no
// zone there: a zone means something on one host only (RFC 4007, section 6).
func certificateName(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.WithZone("").String()
	}
	return host
}
