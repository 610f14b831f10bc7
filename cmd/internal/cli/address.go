package cli

import (
	"cmp"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport"
)

// unixPrefix selects the carrier within one host. Between two it is QUIC, with tlsPrefix TLS
// over TCP, and with autoPrefix the one that is measured to be better.
const (
	unixPrefix = "unix:"
	tlsPrefix  = "tls://"
	autoPrefix = "auto:"
)

// carrierHelp is the part of the help texts about carriers.
const carrierHelp = `Lanes between hosts are QUIC over UDP. With tls://ADDR:PORT on both sides they are TLS
over TCP, with the same identities: that is faster where nothing is lost on the way, as
in one data centre, and QUIC is better where something is, or far, or changes.
A mig-recv at auto:ADDR:PORT listens to both, at a UDP and a TCP port of one number. A
mig-send to auto:ADDR:PORT takes whichever gets through. Where both do, and a round trip
takes less than 5 ms, it measures both before it touches a device, as --dry-run does, with
256 MiB or for a second each at most; an event "carrier" says what was found. It is QUIC
unless TLS carries a quarter more. A migration that continues is not measured again.

ADDR may be a name. A mig-send tries its addresses, IPv6 and IPv4 in turn, each 250 ms
after the one before it (RFC 8305); the one that worked last comes first the next time.
A mig-recv listens at the first that its host has. An address of a link needs its zone,
as in [fe80::1%eth0]:7000. QUIC needs a path that carries packets of 1228 bytes over
IPv4, or 1248 over IPv6. TLS has no such limit.`

// endpoint is where the peer is, or where it is awaited, and who it has to be.
type endpoint struct {
	prefix      string // tlsPrefix, autoPrefix, or none
	address     string
	idle        time.Duration         // silence that ends a lane; not within this host
	credentials transport.Credentials // nil with unix:
}

// newEndpoint checks the flags that say where and who. It makes the identity
// on first use.
func (c *common) newEndpoint(flag, address string) (endpoint, error) {
	prefix, address := cutCarrier(address)
	if err := cmp.Or(checkAddress(flag, prefix, address), c.checkSocketFD(flag, address)); err != nil {
		return endpoint{}, err
	}
	peers, err := parsePeers(c.peers)
	if err != nil {
		return endpoint{}, err
	}
	file, err := c.loadPeers()
	if err != nil {
		return endpoint{}, err
	}
	switch {
	case strings.HasPrefix(address, unixPrefix):
		if len(peers) > 0 || file != nil || c.tlsDir != "" || len(c.peerNames) > 0 {
			return endpoint{}, mistakef("the kernel vouches for the peer: same user, or root", "--peer, --peers-file, --tls-dir and --peer-name have no meaning with %s", unixPrefix)
		}
		return endpoint{address: address}, nil
	case c.tlsDir != "":
		credentials, err := c.certified(address)
		return endpoint{prefix, address, c.idle, credentials}, err
	case len(c.peerNames) > 0:
		return endpoint{}, mistakef("say --tls-dir DIR, or name the peer with --peer ID", "--peer-name needs certificates, and no --tls-dir is given")
	case len(peers) == 0 && file == nil:
		return endpoint{}, mistakef("run `"+c.peerProgram+" id` on the other host and pass what it prints", "no --peer is given, and no --peers-file")
	}
	id, err := loadIdentity(c.identity, c.keyName)
	if err != nil {
		return endpoint{}, err
	}
	pinned := transport.Pinned{Identity: id, Peers: peers}
	if file != nil {
		return endpoint{prefix, address, c.idle, transport.PinnedFile{Pinned: pinned, File: file}}, nil
	}
	return endpoint{prefix, address, c.idle, pinned}, nil
}

// cutCarrier parts what says how lanes between hosts are carried from where to.
func cutCarrier(given string) (prefix, address string) {
	for _, prefix := range []string{tlsPrefix, autoPrefix} {
		if address, ok := strings.CutPrefix(given, prefix); ok {
			return prefix, address
		}
	}
	return "", given
}

// checkAddress looks at an address behind its prefix.
func checkAddress(flag, prefix, address string) error {
	hint := "write " + flag + " ADDR:PORT, as in 192.0.2.7:7000, or " + flag + " tls://ADDR:PORT, or " + flag + " auto:ADDR:PORT, or " + flag + " unix:PATH"
	if prefix+address == "" {
		return mistakef(hint, "%s is missing", flag)
	}
	if _, fd, _ := socketFD(address); prefix != "" && (fd || strings.HasPrefix(address, unixPrefix)) {
		return mistakef(hint, "%s %.80s: %s is for two hosts", flag, prefix+address, prefix)
	}
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		if path == "" {
			return mistakef(hint, "%s %s: the path is empty", flag, address)
		}
		return nil
	}
	if _, ok, _ := socketFD(address); ok {
		return nil // checkSocketFD looks at it
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return mistakef(hint, "%s: %v", flag, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil:
		return mistakef(hint, "%s %s: the port is not a number below 65536", flag, address)
	case n == 0 && flag == "--to":
		return mistakef("mig-recv says which port it listens on", "%s %s: nobody listens on port 0", flag, address)
	}
	return nil
}

// id is this side's name, zero where the carrier has none.
func (e endpoint) id() transport.PeerID {
	if e.credentials == nil {
		return transport.PeerID{}
	}
	return e.credentials.ID()
}

// files are those of the credentials that are read again.
func (e endpoint) files() []string {
	if f, ok := e.credentials.(interface{ Files() []string }); ok {
		return f.Files()
	}
	return nil
}

// isName says that the host has to be looked up.
func (e endpoint) isName() bool {
	host, _, err := net.SplitHostPort(e.address)
	_, notAddress := netip.ParseAddr(host)
	return err == nil && !strings.HasPrefix(e.address, unixPrefix) && notAddress != nil
}

// dialer and listen are the one place that a new carrier is added to. lookup finds the
// host, nil for the system's way.
func (e endpoint) dialer(lookup transport.LookupFunc) transport.Dialer {
	if path, ok := strings.CutPrefix(e.address, unixPrefix); ok {
		return &transport.UnixDialer{Path: path}
	}
	quic := &transport.QUICDialer{Addr: e.address, Credentials: e.credentials, Idle: e.idle, Lookup: lookup}
	tls := &transport.TLSDialer{Addr: e.address, Credentials: e.credentials, Idle: e.idle, Lookup: lookup}
	switch e.prefix {
	case autoPrefix:
		return &transport.EitherDialer{QUIC: quic, TLS: tls}
	case tlsPrefix:
		return tls
	}
	return quic
}

// listen tells refused of peers that were turned away.
func (e endpoint) listen(refused func(error)) (transport.Listener, error) {
	opts := &transport.ListenOptions{Refused: refused, Idle: e.idle}
	var l transport.Listener
	var err error
	if path, ok := strings.CutPrefix(e.address, unixPrefix); ok {
		l, err = transport.ListenUnix(path)
	} else if n, ok, _ := socketFD(e.address); ok {
		l, err = e.listenFD(n, opts)
	} else if e.prefix == autoPrefix {
		l, err = transport.ListenEither(e.address, e.credentials, opts)
	} else if e.prefix == tlsPrefix {
		l, err = transport.ListenTLS(e.address, e.credentials, opts)
	} else {
		l, err = transport.ListenQUIC(e.address, e.credentials, opts)
	}
	if err != nil {
		return nil, &transport.Fault{Code: transport.CodeNetwork, Err: err}
	}
	return l, nil
}

// heardAt is where the peer finds this side, as it would be given to --to.
func (e endpoint) heardAt(l transport.Listener) string {
	if strings.HasPrefix(e.address, unixPrefix) {
		return e.address
	}
	return e.prefix + l.Addr().String()
}
