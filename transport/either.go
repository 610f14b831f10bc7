package transport

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
)

// eitherListener accepts lanes over QUIC and over TLS at one address, through one door:
// whoever tries both counts once.
type eitherListener struct {
	quic *quicListener
	tls  *tlsListener
	*door
}

// portTries is how often a free port is looked for that both carriers can have.
const portTries = 16

// ListenEither accepts lanes over QUIC at a UDP address, and over TLS at the TCP address
// that is written the same, so that each peer may choose ([ListenQUIC], [ListenTLS]). With
// port 0 it is one that is free for both. Lanes outlive the Close of their listener.
func ListenEither(addr string, c Credentials, opts *ListenOptions) (Listener, error) {
	_, port, _ := net.SplitHostPort(addr)
	for tries := 1; ; tries++ {
		l, err := listenEither(addr, c, opts)
		if err == nil {
			return l, nil
		}
		if port != "0" || !errors.Is(err, syscall.EADDRINUSE) || tries == portTries {
			return nil, err
		}
	}
}

func listenEither(addr string, c Credentials, opts *ListenOptions) (*eitherListener, error) {
	conns, err := listenSockets(addr, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	d := newDoor(opts)
	quic, err := listenQUIC(newSockets(conns...), c, d)
	if err != nil {
		return nil, err
	}
	tls, err := listenTLS(quic.Addr().String(), c, d)
	if err != nil {
		quic.Close()
		return nil, err
	}
	return &eitherListener{quic, tls, d}, nil
}

// Addr is where QUIC is awaited; TLS is at the same host and port.
func (l *eitherListener) Addr() net.Addr { return l.quic.Addr() }

// Close ends the handshakes under way and the lanes that nobody has accepted.
func (l *eitherListener) Close() error {
	l.shut(func() { l.quic.refuse(); l.tls.refuse() }, l.quic.sockets.release)
	return nil
}
