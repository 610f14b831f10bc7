package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// closeWait bounds how long [Lane.Close] waits, after CloseWrite, for the peer
// to have read the last byte.
const closeWait = time.Second

// QUICDialer opens lanes over QUIC: each is one connection with a UDP socket of its own and one
// bidirectional stream. A connection has one goroutine that packs and one that receives: more
// connections, not more streams, use more cores. A lane that is not read cannot take the window of
// another.
//
// The peer sees a lane with its first bytes, so that the dialling side has to write first.
type QUICDialer struct {
	Addr        string      // host:port
	Credentials Credentials // who this side is, and who may be at Addr

	// Lookup finds the addresses of the host in Addr, if that is a name. Default: [LookupHost].
	Lookup LookupFunc

	// Socket opens the socket of one lane, which closes it: for a caller whose
	// process may not, or whose network is not the host's. Default: a UDP socket on
	// any address and port of this host.
	Socket func() (net.PacketConn, error)

	// Idle is the silence after which a lane is lost. Default IdleTimeout, at least
	// MinIdleTimeout. By RFC 9000, section 10.1, the shorter of both sides' counts;
	// quic-go takes the other side's for 5 s at least.
	Idle time.Duration

	peer    peerAddress
	windows windowBudget
	first   sync.Once
	lanes   atomic.Uint32 // how many were dialled, from a number on that was drawn
}

// Dial tries the addresses of a name as in RFC 8305: in turn, each for [HandshakeTimeout], and
// beside those that have not answered yet. It begins with the address that worked last, and uses
// that one if a lookup fails.
//
// Dial fails with [ErrUnreachable] if no peer answers, with [ErrHungUp] if the peer ends the
// connection before it is made, and with a [WrongPeerError] or a [CertificateError] if another
// peer answers. A refusal of this side by the peer shows only in the first Read:
// [ErrRefusedByPeer].
func (d *QUICDialer) Dial(ctx context.Context) (Lane, error) {
	config, err := tlsConfig(d.Credentials.renew(), RoleSource)
	if err != nil {
		return nil, err
	}
	judge := func(err error) error { return identityError(err, refused(err)) }
	return d.peer.dial(ctx, d.Addr, d.Lookup, judge, func(ctx context.Context, to netip.AddrPort) (Lane, error) {
		return d.dialAt(ctx, to, config)
	})
}

// dialAt opens a lane to one address.
func (d *QUICDialer) dialAt(ctx context.Context, to netip.AddrPort, config *tls.Config) (Lane, error) {
	conn, err := d.open(to.Addr())
	if err != nil {
		return nil, err
	}
	sockets := newSockets(conn)
	sockets.all[0].transport.ConnectionIDGenerator = d.number()
	lane, err := d.dialFrom(ctx, sockets, to, config)
	if err != nil {
		sockets.release()
		if narrow := narrowPath(to); narrow != nil && d.Socket == nil {
			return nil, narrow
		}
		return nil, err
	}
	return lane, nil
}

// number makes the connection IDs of the next lane, so that a listener with several sockets
// has not two lanes on one and none on another. Diallers begin anywhere below 128, since many
// may have few lanes: at 256 the numbers begin again, which most numbers of sockets do not.
func (d *QUICDialer) number() numbered {
	d.first.Do(func() { d.lanes.Store(rand.Uint32N(128)) })
	return numbered{int(d.lanes.Add(1) % 256), 256}
}

// open gives a lane that goes to an address its socket.
func (d *QUICDialer) open(to netip.Addr) (net.PacketConn, error) {
	if d.Socket != nil {
		return d.Socket()
	}
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(unspecified(to), 0)))
}

func (d *QUICDialer) dialFrom(ctx context.Context, s *quicSockets, to netip.AddrPort, config *tls.Config) (*quicLane, error) {
	conn, err := s.all[0].transport.Dial(ctx, net.UDPAddrFromAddrPort(to), config, quicConfig(&d.windows, d.Idle))
	if err != nil {
		return nil, err
	}
	d.windows.watch(conn)
	stream, err := conn.OpenStream()
	if err != nil {
		conn.CloseWithError(codeGivenUp, "")
		return nil, err
	}
	return newQUICLane(conn, d.Credentials, stream, s, s.all[0], dialerLinger), nil
}

// quicConfig has the handoff's timers, the shortest packets to begin with, and room for one
// stream from the dialler and none of any other kind.
func quicConfig(windows *windowBudget, idle time.Duration) *quic.Config {
	return &quic.Config{
		InitialPacketSize:              quicPayload,
		HandshakeIdleTimeout:           HandshakeTimeout,
		MaxIdleTimeout:                 idleTimeout(idle),
		KeepAlivePeriod:                KeepAlive,
		InitialStreamReceiveWindow:     InitialWindow,
		MaxStreamReceiveWindow:         MaxWindow,
		InitialConnectionReceiveWindow: InitialWindow,
		MaxConnectionReceiveWindow:     MaxWindow,
		AllowConnectionWindowIncrease:  windows.grant,
		MaxIncomingStreams:             1,
		MaxIncomingUniStreams:          -1,
	}
}

// unspecified is "any address" of the family of ip.
func unspecified(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// The codes of an application's CONNECTION_CLOSE (RFC 9000, section 19.19), as in PROTOCOL.md.
const (
	codeEnd     quic.ApplicationErrorCode = 0 // the lane has ended, in its CloseWrite
	codeGivenUp quic.ApplicationErrorCode = 1 // this connection is abandoned, and nothing else
	codeRefused quic.ApplicationErrorCode = 2 // the client's identity is refused, with the reason phrase
)

// quicLane is the one stream of a connection.
type quicLane struct {
	peer
	conn     *quic.Conn
	stream   *quic.Stream
	linger   func(context.Context, *quic.Conn)
	sockets  *quicSockets
	socket   *quicSocket // of them
	finished atomic.Bool // CloseWrite was called
	close    sync.Once
	firstByte
}

// newQUICLane is of a connection whose handshake is done.
func newQUICLane(conn *quic.Conn, c Credentials, stream *quic.Stream, sockets *quicSockets, socket *quicSocket, linger func(context.Context, *quic.Conn)) *quicLane {
	who := peer{c.peer(conn.ConnectionState().TLS.PeerCertificates[0])}
	return &quicLane{peer: who, conn: conn, stream: stream, sockets: sockets, socket: socket, linger: linger}
}

// Carrier implements [Carried].
func (l *quicLane) Carrier() Carrier {
	c := l.socket.carrier()
	c.RTT = l.conn.ConnectionStats().MinRTT
	return c
}

func (l *quicLane) Read(p []byte) (int, error) {
	n, err := l.stream.Read(p)
	l.firstByte.read(n)
	return n, quicLaneError(err)
}

func (l *quicLane) Write(p []byte) (int, error) {
	n, err := l.stream.Write(p)
	return n, quicLaneError(err)
}

// CloseWrite does not fail: quic-go's only error here is that the peer reads no more. Only the
// peer knows whether it has read everything.
func (l *quicLane) CloseWrite() error {
	l.finished.Store(true)
	l.stream.Close()
	return nil
}

func (l *quicLane) SetDeadline(t time.Time) error {
	return l.stream.SetDeadline(t)
}

// Close after CloseWrite first waits, up to closeWait, until the peer has read everything or has
// closed: the close of a QUIC connection loses bytes that the peer received and did not read.
// Without CloseWrite the connection is abandoned: the peer reads [ErrLost].
func (l *quicLane) Close() error {
	l.close.Do(func() {
		code := codeGivenUp
		if l.finished.Load() {
			code = codeEnd
			l.stream.CancelRead(0)
			ctx, cancel := context.WithTimeout(context.Background(), closeWait)
			l.linger(ctx, l.conn)
			cancel()
		}
		l.conn.CloseWithError(code, "")
		l.sockets.release()
	})
	return nil
}

// dialerLinger waits until the peer has finished the stream. quic-go does not report
// acknowledgements. But the listener allows one stream, and allows the next when both directions
// of the first are finished and read to the end (RFC 9000, section 4.6): when a second stream can
// be opened, nothing is in flight.
func dialerLinger(ctx context.Context, conn *quic.Conn) {
	conn.OpenStreamSync(ctx) // never written to, so the peer does not see it
}

// listenerLinger leaves the closing to the dialler, who knows by the above when
// both sides are done.
func listenerLinger(ctx context.Context, conn *quic.Conn) {
	select {
	case <-conn.Context().Done():
	case <-ctx.Done():
	}
}

// quicLaneError gives quic-go's errors on an open lane this package's meaning.
func quicLaneError(err error) error {
	switch {
	case err == nil, err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case closedHere(err):
		return &carrierError{kind: net.ErrClosed, cause: err}
	case refused(err):
		return refusedError(err)
	case endedThere(err):
		return &carrierError{kind: ErrPeerGone, cause: err}
	}
	return &carrierError{kind: ErrLost, cause: err}
}

// endedThere reports whether the peer's program ended the lane. A connection that the peer has
// abandoned counts as lost. So does one that QUIC ends: by silence, by a reset of a peer that does
// not know the connection any more, by an error below (RFC 9000, sections 10.1, 10.3 and 11).
func endedThere(err error) bool {
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return e.ErrorCode != codeGivenUp
	}
	_, stream := errors.AsType[*quic.StreamError](err)
	return stream
}

// identityError is the fault of the peer that answered a handshake, nil if no peer with this
// protocol did. refused means that the peer has refused this side.
func identityError(err error, refused bool) error {
	if wrong, ok := errors.AsType[*WrongPeerError](err); ok {
		return wrong
	}
	if wrong, ok := errors.AsType[*CertificateError](err); ok {
		return wrong
	}
	if refused {
		return refusedError(err)
	}
	return nil
}

// refusedError is an ErrRefusedByPeer with the peer's reason, if it gave one.
func refusedError(err error) error {
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return refusedFor(e.ErrorMessage)
	}
	return &carrierError{kind: ErrRefusedByPeer, cause: err}
}

// closedHere reports whether this side ended the stream or the connection.
func closedHere(err error) bool {
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return !e.Remote
	}
	if e, ok := errors.AsType[*quic.StreamError](err); ok {
		return !e.Remote
	}
	return errors.Is(err, quic.ErrStreamClosed)
}

// refused recognises the refusal of an identity: a listener closes with codeRefused, a dialler
// sends an alert of TLS (RFC 8446, section 6.2; as QUIC errors RFC 9001, section 4.8).
func refused(err error) bool {
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return e.Remote && e.ErrorCode == codeRefused
	}
	e, ok := errors.AsType[*quic.TransportError](err)
	if !ok || !e.Remote {
		return false
	}
	const (
		cryptoError         = 0x100
		badCertificate      = cryptoError + 42
		unsupportedCert     = cryptoError + 43
		certificateUnknown  = cryptoError + 46
		accessDenied        = cryptoError + 49
		certificateRequired = cryptoError + 116
	)
	switch e.ErrorCode {
	case badCertificate, unsupportedCert, certificateUnknown, accessDenied, certificateRequired:
		return true
	}
	return false
}

// windowBudget bounds the growth of the receive windows of all lanes of a dialler or listener
// together by [MaxWindowGrowth]. Every lane has its [InitialWindow]. A lane that is read fast
// enough to need more gets it while the budget lasts, and returns it at its end.
//
// quic-go ends a connection whose stream has more than 1,000 gaps. That happens when a slow start
// fills a queue on the path: every second packet of a window of several megabytes is lost. An
// InitialWindow does not have so many packets. So no window grows after such an end, and the next
// lane lasts.
type windowBudget struct {
	mu      sync.Mutex
	granted map[*quic.Conn]uint64
	total   uint64
	narrow  bool // no window grows any more
}

// watch gives back what a connection was granted, when its run loop has ended, so
// that no grant follows.
func (b *windowBudget) watch(conn *quic.Conn) {
	ctx := conn.Context()
	context.AfterFunc(ctx, func() { b.forget(conn, context.Cause(ctx)) })
}

// grant is called by quic-go each time it would like to enlarge a window.
func (b *windowBudget) grant(conn *quic.Conn, delta uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.narrow || b.total+delta > MaxWindowGrowth {
		return false
	}
	if b.granted == nil {
		b.granted = make(map[*quic.Conn]uint64)
	}
	b.granted[conn] += delta
	b.total += delta
	return true
}

func (b *windowBudget) forget(conn *quic.Conn, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if gaps, ok := errors.AsType[*quic.TransportError](cause); ok && !gaps.Remote && gaps.ErrorCode == quic.InternalError {
		b.narrow = true
	}
	b.total -= b.granted[conn]
	delete(b.granted, conn)
}
