package transport

import (
	"context"
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net"

	"github.com/quic-go/quic-go"
)

// quicListener accepts the lanes of every authenticated peer on one UDP socket.
type quicListener struct {
	socket  *quicSocket
	quic    *quic.Listener
	windows windowBudget
	*door
}

// ListenQUIC accepts lanes on a UDP address from the peers that the credentials
// know. Lanes outlive the Close of their listener.
func ListenQUIC(addr string, c Credentials, opts *ListenOptions) (Listener, error) {
	local, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	conn, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	return ListenQUICOn(conn, c, opts)
}

// ListenQUICOn is [ListenQUIC] on a socket that is bound already, as a service
// manager hands it over, or on anything else that carries packets. The listener
// owns it from then on, errors included.
func ListenQUICOn(conn net.PacketConn, c Credentials, opts *ListenOptions) (Listener, error) {
	if opts == nil {
		opts = new(ListenOptions)
	}
	socket := newSocket(conn)
	l, err := listenOn(socket, c, *opts)
	if err != nil {
		socket.release()
		return nil, err
	}
	return l, nil
}

func listenOn(socket *quicSocket, c Credentials, o ListenOptions) (Listener, error) {
	l := &quicListener{socket: socket, door: newDoor(o)}
	config, err := l.config(c)
	if err != nil {
		return nil, err
	}
	reset, err := resetKey(config.Certificates[0].PrivateKey)
	if err != nil {
		return nil, err
	}
	socket.transport.StatelessResetKey = reset
	socket.transport.VerifySourceAddress = l.mustProveAddress
	socket.transport.ConnContext = l.admit
	l.quic, err = socket.transport.Listen(config, quicConfig(&l.windows, o.Idle))
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	l.serving.Go(l.serve) // Close ends it
	return l, nil
}

// resetKey makes a restarted process recognise, and reset at once, connections
// that its predecessor with the same private key had (RFC 9000, section 10.3.2).
func resetKey(private crypto.PrivateKey) (*quic.StatelessResetKey, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("transport: derive the reset key: %w", err)
	}
	key, err := hkdf.Key(sha256.New, der, nil, ALPN+" stateless reset", len(quic.StatelessResetKey{}))
	if err != nil {
		panic("transport: " + err.Error()) // only for lengths that hkdf cannot make
	}
	return (*quic.StatelessResetKey)(key), nil
}

// mustProveAddress asks for a Retry while many connections are half open, and of
// an address that has used up what nobody has to prove.
func (l *quicListener) mustProveAddress(from net.Addr) bool {
	return l.halfOpen.Load() >= RetryHalfOpen || l.callers.hurried(from)
}

// openedKey finds, in a connection's context, the function that says that the
// connection is no longer half open.
type openedKey struct{}

// admit counts a connection as half open from its first packet until its first
// stream was accepted or it ended.
func (l *quicListener) admit(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
	if err := l.enter(from.RemoteAddr); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, l.leave)
	opened := func() {
		if stop() {
			l.leave()
		}
	}
	return context.WithValue(ctx, openedKey{}, opened), nil
}

// serve hands every connection to a goroutine of its own, so that none waits
// for another. Close of the quic listener ends it, once it has seen every
// connection that was established before.
func (l *quicListener) serve() {
	for {
		conn, err := l.quic.Accept(context.Background())
		if err != nil {
			return
		}
		l.serving.Go(func() { l.open(conn) }) // HandshakeTimeout or Close ends it; at most MaxHalfOpen run
	}
}

// open waits for a connection's stream and for somebody to accept the lane.
func (l *quicListener) open(conn *quic.Conn) {
	l.windows.watch(conn)
	opened := conn.Context().Value(openedKey{}).(func())
	defer opened()
	ctx, cancel := context.WithTimeout(l.closing, HandshakeTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		conn.CloseWithError(0, "")
		return
	}
	l.socket.users.Add(1)
	lane := newQUICLane(conn, stream, l.socket, listenerLinger)
	select {
	case l.lanes <- lane:
	case <-conn.Context().Done():
		lane.Close()
	case <-l.closing.Done():
		lane.Close()
	}
}

func (l *quicListener) Addr() net.Addr { return l.socket.conn.LocalAddr() }

// Close ends the handshakes under way and the lanes that nobody has accepted.
func (l *quicListener) Close() error {
	l.close.Do(func() {
		l.stop()
		l.quic.Close()
		l.serving.Wait()
		l.socket.release()
	})
	return nil
}
