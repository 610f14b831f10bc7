package input

import (
	"cmp"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport"
)

// CarrierHelp is the part of the help texts about carriers.
const CarrierHelp = `Lanes between hosts are QUIC over UDP. With tls://ADDR:PORT on both sides they are TLS
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

// Endpoint is where the peer is, or where it is awaited, and who it has to be.
type Endpoint struct {
	Prefix      string // tlsPrefix, autoPrefix, or none
	Address     string
	idle        time.Duration         // silence that ends a lane; not within this host
	credentials transport.Credentials // nil with unix:
}

// NewEndpoint checks the flags that say where the peer is, and who both sides are. It makes the
// identity on first use.
func (a *Auth) NewEndpoint(flag, address string, fds Descriptors) (Endpoint, error) {
	prefix, address := CutCarrier(address)
	if err := cmp.Or(CheckAddress(flag, prefix, address), fds.checkSocket(flag, address)); err != nil {
		return Endpoint{}, err
	}
	peers, err := parsePeers(a.Peers)
	if err != nil {
		return Endpoint{}, err
	}
	file, err := a.loadPeers(fds.Side)
	if err != nil {
		return Endpoint{}, err
	}
	switch {
	case strings.HasPrefix(address, ui.UnixPrefix):
		if len(peers) > 0 || file != nil || a.TLSDir != "" || len(a.PeerNames) > 0 {
			return Endpoint{}, ui.Mistakef("the kernel vouches for the peer: same user, or root", "--peer, --peers-file, --tls-dir and --peer-name have no meaning with %s", ui.UnixPrefix)
		}
		return Endpoint{Address: address}, nil
	case a.TLSDir != "":
		credentials, err := a.certified(address, fds.Side)
		return Endpoint{prefix, address, a.Idle, credentials}, err
	case len(a.PeerNames) > 0:
		return Endpoint{}, ui.Mistakef("say --tls-dir DIR, or name the peer with --peer ID", "--peer-name needs certificates, and no --tls-dir is given")
	case len(peers) == 0 && file == nil:
		return Endpoint{}, ui.Mistakef("run `"+fds.PeerProgram+" id` on the other host and pass what it prints", "no --peer is given, and no --peers-file")
	}
	id, err := LoadIdentity(a.Identity, fds.KeyName)
	if err != nil {
		return Endpoint{}, err
	}
	pinned := transport.Pinned{Identity: id, Peers: peers}
	if file != nil {
		return Endpoint{prefix, address, a.Idle, transport.PinnedFile{Pinned: pinned, File: file}}, nil
	}
	return Endpoint{prefix, address, a.Idle, pinned}, nil
}

// CutCarrier separates the prefix that selects a carrier from the address.
func CutCarrier(given string) (prefix, address string) {
	for _, prefix := range []string{ui.TLSPrefix, ui.AutoPrefix} {
		if address, ok := strings.CutPrefix(given, prefix); ok {
			return prefix, address
		}
	}
	return "", given
}

// CheckAddress looks at an address behind its prefix.
func CheckAddress(flag, prefix, address string) error {
	hint := "write " + flag + " ADDR:PORT, as in 192.0.2.7:7000, or " + flag + " tls://ADDR:PORT, or " + flag + " auto:ADDR:PORT, or " + flag + " unix:PATH"
	if prefix+address == "" {
		return ui.Mistakef(hint, "%s is missing", flag)
	}
	if _, fd, _ := socketFD(address); prefix != "" && (fd || strings.HasPrefix(address, ui.UnixPrefix)) {
		return ui.Mistakef(hint, "%s %.80s: %s is for two hosts", flag, prefix+address, prefix)
	}
	if path, ok := strings.CutPrefix(address, ui.UnixPrefix); ok {
		if path == "" {
			return ui.Mistakef(hint, "%s %s: the path is empty", flag, address)
		}
		return nil
	}
	if _, ok, _ := socketFD(address); ok {
		return nil // checkSocket looks at it
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ui.Mistakef(hint, "%s: %v", flag, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil:
		return ui.Mistakef(hint, "%s %s: the port is not a number below 65536", flag, address)
	case n == 0 && flag == "--to":
		return ui.Mistakef("mig-recv says which port it listens on", "%s %s: nobody listens on port 0", flag, address)
	}
	return nil
}

// ID is this side's name, zero where the carrier has none.
func (e Endpoint) ID() transport.PeerID {
	if e.credentials == nil {
		return transport.PeerID{}
	}
	return e.credentials.ID()
}

// Files are those of the credentials that are read again.
func (e Endpoint) Files() []string {
	if f, ok := e.credentials.(interface{ Files() []string }); ok {
		return f.Files()
	}
	return nil
}

// IsName reports whether the host has to be looked up.
func (e Endpoint) IsName() bool {
	host, _, err := net.SplitHostPort(e.Address)
	_, notAddress := netip.ParseAddr(host)
	return err == nil && !strings.HasPrefix(e.Address, ui.UnixPrefix) && notAddress != nil
}

// Dialer makes a dialer for the address. A new carrier is added here and in Listen. lookup finds
// the addresses of the host; nil asks the system.
func (e Endpoint) Dialer(lookup transport.LookupFunc) transport.Dialer {
	if path, ok := strings.CutPrefix(e.Address, ui.UnixPrefix); ok {
		return &transport.UnixDialer{Path: path}
	}
	quic := &transport.QUICDialer{Addr: e.Address, Credentials: e.credentials, Idle: e.idle, Lookup: lookup}
	tls := &transport.TLSDialer{Addr: e.Address, Credentials: e.credentials, Idle: e.idle, Lookup: lookup}
	switch e.Prefix {
	case ui.AutoPrefix:
		return &transport.EitherDialer{QUIC: quic, TLS: tls}
	case ui.TLSPrefix:
		return tls
	}
	return quic
}

// Listen listens at the address. It calls refused for each peer that it refuses.
func (e Endpoint) Listen(refused func(error)) (transport.Listener, error) {
	opts := &transport.ListenOptions{Refused: refused, Idle: e.idle}
	var l transport.Listener
	var err error
	if path, ok := strings.CutPrefix(e.Address, ui.UnixPrefix); ok {
		l, err = transport.ListenUnix(path)
	} else if n, ok, _ := socketFD(e.Address); ok {
		l, err = e.listenFD(n, opts)
	} else if e.Prefix == ui.AutoPrefix {
		l, err = transport.ListenEither(e.Address, e.credentials, opts)
	} else if e.Prefix == ui.TLSPrefix {
		l, err = transport.ListenTLS(e.Address, e.credentials, opts)
	} else {
		l, err = transport.ListenQUIC(e.Address, e.credentials, opts)
	}
	if err != nil {
		return nil, &transport.Fault{Code: transport.CodeNetwork, Err: err}
	}
	return l, nil
}

// HeardAt is the value of --to by which the peer reaches this side.
func (e Endpoint) HeardAt(l transport.Listener) string {
	if strings.HasPrefix(e.Address, ui.UnixPrefix) {
		return e.Address
	}
	return e.Prefix + l.Addr().String()
}
