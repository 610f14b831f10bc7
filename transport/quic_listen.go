package transport

import (
	"context"
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net"
	"runtime"

	"github.com/quic-go/quic-go"
)

// quicListener accepts the lanes of every authenticated peer at one UDP address.
type quicListener struct {
	sockets *quicSockets
	quic    []*quic.EarlyListener // one for each socket
	known   Credentials
	windows windowBudget
	*acceptGate
}

// ListenQUIC accepts lanes at a UDP address from the peers that the credentials know. It has a
// socket for each core if the kernel can steer the packets of a connection to one socket.
// Lanes outlive the Close of their listener.
func ListenQUIC(addr string, c Credentials, opts *ListenOptions) (Listener, error) {
	conns, err := listenSockets(addr, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	return listenOn(newSockets(conns...), c, opts)
}

// ListenQUICOn is [ListenQUIC] on a socket that is bound already, as a service
// manager hands it over, or on anything else that carries packets. The listener
// owns it from then on, errors included.
func ListenQUICOn(conn net.PacketConn, c Credentials, opts *ListenOptions) (Listener, error) {
	return listenOn(newSockets(conn), c, opts)
}

// listenOn owns the sockets, errors included.
func listenOn(sockets *quicSockets, c Credentials, opts *ListenOptions) (Listener, error) {
	l, err := listenQUIC(sockets, c, newAcceptGate(opts))
	if err != nil {
		return nil, err
	}
	return l, nil
}

// listenQUIC accepts lanes through an acceptGate. It owns the sockets, also if it fails.
func listenQUIC(sockets *quicSockets, c Credentials, d *acceptGate) (*quicListener, error) {
	l := &quicListener{sockets: sockets, known: c, acceptGate: d}
	if err := l.listen(c, l.limited()); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *quicListener) listen(c Credentials, quicConfig *quic.Config) error {
	config, err := l.config(c)
	if err != nil {
		return err
	}
	reset, err := resetKey(config.Certificates[0].PrivateKey)
	if err != nil {
		return err
	}
	for _, s := range l.sockets.all {
		s.transport.StatelessResetKey = reset
		s.transport.VerifySourceAddress = l.mustProveAddress
		s.transport.ConnContext = l.admit
		q, err := s.transport.ListenEarly(config, quicConfig)
		if err != nil {
			return fmt.Errorf("transport: listen: %w", err)
		}
		l.quic = append(l.quic, q)
		l.serving.Go(func() { l.serve(s, q) }) // Close ends it
	}
	return nil
}

// resetKey makes a restarted process recognise, and reset at once, connections
// that its predecessor with the same private key had (RFC 9000, section 10.3.2). A private
// key that is renewed meanwhile leaves it as it is.
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

// limited is quicConfig. While the table is crowded, a silent connection ends sooner by it:
// before the first message of a connection is whole, nothing else can end it.
func (l *quicListener) limited() *quic.Config {
	usual, crowded := quicConfig(&l.windows, l.idle), quicConfig(&l.windows, l.idle)
	crowded.HandshakeIdleTimeout = SilentTime
	usual.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) {
		if l.halfOpen.count() >= MaxHalfOpen/2 {
			return crowded, nil
		}
		return usual, nil
	}
	return usual
}

// mustProveAddress asks for a Retry while many connections are half open, and of an address whose
// bucket is half empty.
func (l *quicListener) mustProveAddress(from net.Addr) bool {
	return l.halfOpen.count() >= RetryHalfOpen || l.callers.hurried(from)
}

// placeKey finds, in a connection's context, its place in the table of half-open ones.
type placeKey struct{}

// admit gives a connection a place from its first packet until its first stream was accepted
// or it ended.
func (l *quicListener) admit(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
	within, p, err := l.enter(ctx, from.RemoteAddr, from.AddrVerified)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { l.halfOpen.leave(p) })
	return context.WithValue(within, placeKey{}, p), nil
}

// serve hands every connection to a goroutine of its own, so that none waits
// for another. It has a connection when this side has answered its first message: before that
// it cannot be closed. Close of the quic listener ends it, once it has seen every connection
// that came so far before.
func (l *quicListener) serve(s *quicSocket, q *quic.EarlyListener) {
	for {
		conn, err := q.Accept(context.Background())
		if err != nil {
			return
		}
		l.serving.Go(func() { l.open(s, conn) }) // its timeouts, its eviction or Close ends it; at most MaxHalfOpen run
	}
}

// open waits for the handshake of a connection, for its stream, and for an Accept of the lane.
func (l *quicListener) open(s *quicSocket, conn *quic.Conn) {
	l.windows.watch(conn)
	p := conn.Context().Value(placeKey{}).(*place)
	defer l.halfOpen.leave(p)
	l.halfOpen.mayEvict(p, silenceOf(func() uint64 { return conn.ConnectionStats().PacketsReceived }))
	select {
	case <-conn.HandshakeComplete():
		if err := l.judge(l.known, conn.ConnectionState().TLS); err != nil {
			conn.CloseWithError(codeRefused, refusal(err))
			return
		}
		l.halfOpen.authenticated(p)
	case <-conn.Context().Done(): // it has ended, or was evicted
		if cause := context.Cause(conn.Context()); refused(cause) {
			l.refusedBy(conn.RemoteAddr(), cause)
		}
		conn.CloseWithError(codeGivenUp, "")
		return
	}
	ctx, cancel := context.WithTimeout(conn.Context(), HandshakeTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		conn.CloseWithError(codeGivenUp, "")
		return
	}
	l.halfOpen.settle(p)
	l.sockets.users.Add(1)
	lane := newQUICLane(conn, l.known, stream, l.sockets, s, listenerLinger)
	select {
	case l.lanes <- lane:
	case <-conn.Context().Done():
		lane.Close()
	case <-l.closing:
		lane.Close()
	}
}

func (l *quicListener) Addr() net.Addr { return l.sockets.all[0].conn.LocalAddr() }

// Close ends the handshakes in progress and the lanes that were not accepted.
func (l *quicListener) Close() error {
	l.shut(l.refuse, l.sockets.release)
	return nil
}

// refuse ends what hands out new connections.
func (l *quicListener) refuse() {
	for _, q := range l.quic {
		q.Close()
	}
}
