package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TLSDialer opens lanes over TLS 1.3 and TCP, with the identities, the roles and the
// protocol of [QUICDialer]. A kernel that does the work of TCP, and a network that joins
// its packets, make it the faster one on a clean path; where packets are lost, or
// addresses change, it is QUIC.
type TLSDialer struct {
	Addr        string      // host:port
	Credentials Credentials // who this side is, and who may be at Addr

	// Idle is the silence after which a lane is lost: of the peer's kernel, where nothing
	// is to be sent, or of its acknowledgements. A peer whose program has read nothing for
	// so long, until its kernel has no room, is lost too: TCP_USER_TIMEOUT counts while a
	// window is closed (tcp(7)), as a QUIC peer that does not run is silent. Default
	// IdleTimeout, at least MinIdleTimeout; the kernel counts in seconds.
	Idle time.Duration

	// Lookup is as in [QUICDialer].
	Lookup LookupFunc

	peer    peerAddress
	segment segment
}

// Dial tries addresses, and fails, as that of [QUICDialer].
func (d *TLSDialer) Dial(ctx context.Context) (Lane, error) {
	config, err := tlsConfig(d.Credentials.renew(), RoleSource)
	if err != nil {
		return nil, err
	}
	judge := func(err error) error { return identityError(err, refusedByAlert(err)) }
	return d.peer.dial(ctx, d.Addr, d.Lookup, judge, func(ctx context.Context, to netip.AddrPort) (Lane, error) {
		return d.dialAt(ctx, to, config)
	})
}

// dialAt opens a lane to one address.
func (d *TLSDialer) dialAt(ctx context.Context, to netip.AddrPort, config *tls.Config) (Lane, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{KeepAliveConfig: keepAlive(d.Idle), Control: d.segment.ask}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	lane := newTLSLane(conn.(*net.TCPConn), d.Idle, func(c net.Conn) *tls.Conn { return tls.Client(c, config) })
	lane.segment, lane.dialled = &d.segment, true
	if err := lane.handshake(ctx, d.Credentials); err != nil {
		if errors.Is(err, context.DeadlineExceeded) { // TCP's own handshake has passed
			d.segment.distrust()
		}
		conn.Close()
		return nil, err
	}
	return lane, nil
}

// keepAlive has the kernel notice a peer that has gone while nothing is to be sent.
func keepAlive(idle time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: max(1, int(idleTimeout(idle)/time.Second)-1)}
}

// tlsListener accepts the lanes of every authenticated peer.
type tlsListener struct {
	tcp   *net.TCPListener
	tls   *tls.Config
	known Credentials
	*acceptGate
}

// ListenTLS accepts lanes on a TCP address from the peers that the credentials know.
// Lanes outlive the Close of their listener.
func ListenTLS(addr string, c Credentials, opts *ListenOptions) (Listener, error) {
	l, err := listenTLS(addr, c, newAcceptGate(opts))
	if err != nil {
		return nil, err
	}
	return l, nil
}

// listenTLS accepts lanes through an acceptGate.
func listenTLS(addr string, c Credentials, d *acceptGate) (*tlsListener, error) {
	config, err := d.config(c)
	if err != nil {
		return nil, err
	}
	sockets := &net.ListenConfig{KeepAliveConfig: keepAlive(d.idle)}
	sockets.SetMultipathTCP(false) // which no dialler of ours speaks, and whose address has no zone
	tcp, err := listenFirst(addr, func(at netip.AddrPort) (*net.TCPListener, error) {
		l, err := sockets.Listen(context.Background(), "tcp", net.TCPAddrFromAddrPort(at).String())
		if err != nil {
			return nil, err
		}
		return l.(*net.TCPListener), nil
	})
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	l := &tlsListener{tcp: tcp, tls: config, known: c, acceptGate: d}
	l.serving.Go(l.serve) // Close ends it
	return l, nil
}

// serve hands every connection to a goroutine of its own, so that none waits for
// another. A connection that TCP has made proves its address.
func (l *tlsListener) serve() {
	for {
		conn, err := l.tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, perhaps
			select {
			case <-time.After(dialEvery):
			case <-l.closing:
			}
			continue
		}
		ctx, p, err := l.enter(context.Background(), conn.RemoteAddr(), true)
		if err != nil {
			conn.Close()
			continue
		}
		l.serving.Go(func() {
			defer p.evict(nil)
			defer l.halfOpen.leave(p)
			l.open(ctx, p, conn)
		})
	}
}

// open waits for the handshake of a connection, HandshakeTimeout at most, and for an Accept of
// the lane.
func (l *tlsListener) open(ctx context.Context, p *place, conn *net.TCPConn) {
	lane := newTLSLane(conn, l.idle, func(c net.Conn) *tls.Conn { return tls.Server(c, l.tls) })
	l.halfOpen.mayEvict(p, func() time.Duration { return tcpSilence(conn) })
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	if err := lane.handshake(ctx, l.known); err != nil {
		if refusedByAlert(err) {
			l.refusedBy(conn.RemoteAddr(), err)
		}
		conn.Close()
		return
	}
	if err := l.judge(l.known, lane.tls.ConnectionState()); err != nil {
		stop := context.AfterFunc(ctx, func() { conn.Close() }) // an eviction, or Close
		defer stop()
		lane.refuse(refusal(err))
		return
	}
	l.halfOpen.authenticated(p)
	select {
	case l.lanes <- lane:
	case <-ctx.Done():
		lane.Close()
	}
}

// tcpSilence is how long the kernel has received nothing on a connection.
func tcpSilence(conn *net.TCPConn) (silence time.Duration) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // a socket that is closed has a place for a moment only
		silence, _ = tcpTimes(int(fd))
	})
	return silence
}

func (l *tlsListener) Addr() net.Addr { return l.tcp.Addr() }

// Close ends the handshakes in progress and the lanes that were not accepted.
func (l *tlsListener) Close() error {
	l.shut(l.refuse, func() {})
	return nil
}

// refuse ends what hands out new connections.
func (l *tlsListener) refuse() { l.tcp.Close() }

// tlsLane is one TLS connection.
type tlsLane struct {
	peer
	tcp      *net.TCPConn
	tls      *tls.Conn
	out      *records
	segment  *segment    // the dialler's, nil at the listener
	dialled  bool        // by this side, and nothing was read yet
	finished atomic.Bool // CloseWrite was called
	closed   atomic.Bool
	close    sync.Once
	firstByte
}

func newTLSLane(conn *net.TCPConn, idle time.Duration, wrap func(net.Conn) *tls.Conn) *tlsLane {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // without it a loss is noticed later
			limitUnacknowledged(int(fd), idleTimeout(idle))
		})
	}
	out := &records{TCPConn: conn}
	return &tlsLane{tcp: conn, tls: wrap(out), out: out}
}

func (l *tlsLane) handshake(ctx context.Context, c Credentials) error {
	if err := l.tls.HandshakeContext(ctx); err != nil {
		return err
	}
	l.peer = peer{c.peer(l.tls.ConnectionState().PeerCertificates[0])}
	return nil
}

// Carrier implements [Carried].
func (l *tlsLane) Carrier() Carrier {
	c := Carrier{Name: "tls", Window: tcpWindow}
	sock, ok := l.tls.NetConn().(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return c
	}
	_ = raw.Control(func(fd uintptr) { // a closed socket has no values
		_, c.RTT = tcpTimes(int(fd))
	})
	return c
}

// tcpWindow is how far Linux lets the send buffer of a connection grow by default: the
// last of net.ipv4.tcp_wmem.
const tcpWindow = 4 << 20

// refusalMark begins what a listener sends that refuses the client: no frame begins so. The
// length of the reason follows in two bytes, and then the reason.
const refusalMark = 0xff

// refuse sends the reason of the refusal to the client, and ends the lane. Bytes of the client are
// discarded meanwhile, for closeWait at most.
func (l *tlsLane) refuse(reason string) {
	head := []byte{refusalMark, byte(len(reason) >> 8), byte(len(reason))}
	l.tcp.SetDeadline(time.Now().Add(closeWait))
	if _, err := l.Write(append(head, reason...)); err == nil { // or the client has gone
		l.CloseWrite()
	}
	l.Close()
}

// refused reads the reason of a listener that has refused this side. Its first bytes have
// come.
func (l *tlsLane) refused(begun []byte) error {
	l.tcp.SetReadDeadline(time.Now().Add(closeWait))
	rest := io.MultiReader(bytes.NewReader(bytes.Clone(begun)), l.tls)
	var head [3]byte
	if _, err := io.ReadFull(rest, head[:]); err != nil {
		return &carrierError{kind: ErrRefusedByPeer, cause: err}
	}
	reason, err := io.ReadAll(io.LimitReader(rest, int64(head[1])<<8|int64(head[2])))
	if err != nil {
		reason = nil
	}
	return refusedFor(string(reason))
}

func (l *tlsLane) Read(p []byte) (int, error) {
	n, err := l.tls.Read(p)
	if l.dialled && n > 0 {
		l.dialled = false
		if p[0] == refusalMark {
			return 0, l.refused(p[:n])
		}
	}
	l.firstByte.read(n)
	if err == io.EOF && l.out.ended.Load() { // crypto/tls accepts it between two records
		err = io.ErrUnexpectedEOF
	}
	return n, l.error(err)
}

// Write gives crypto/tls no more than a record at a time: a Write of its that times out
// would be the lane's last.
func (l *tlsLane) Write(p []byte) (n int, err error) {
	for err == nil && n < len(p) {
		if err = l.out.flush(flushMost); err != nil {
			break
		}
		var m int
		l.out.gather(true)
		m, err = l.tls.Write(p[n:min(n+recordMost, len(p))])
		l.out.gather(false)
		n += m
	}
	if err == nil {
		err = l.out.flush(0)
	}
	return n, l.error(err)
}

func (l *tlsLane) CloseWrite() error {
	l.finished.Store(true)
	if err := l.out.flush(0); err != nil { // before crypto/tls sets deadlines of its own
		return l.error(err)
	}
	return l.error(l.tls.CloseWrite())
}

func (l *tlsLane) SetDeadline(t time.Time) error { return l.tcp.SetDeadline(t) }

// Close after CloseWrite first waits, up to closeWait, until the peer has finished, too: if bytes
// came that were not read, TCP ends in a reset, which discards bytes that the peer did not read yet
// (RFC 1122, section 4.2.2.13). Without CloseWrite the connection is abandoned: the peer gets a
// reset and no close_notify, and so its lane is lost.
func (l *tlsLane) Close() error {
	l.close.Do(func() {
		l.closed.Store(true)
		if l.finished.Load() {
			l.tcp.SetDeadline(time.Now().Add(closeWait))
			io.Copy(io.Discard, l.tls)
		} else {
			l.tcp.SetLinger(0) // ABORT of RFC 9293, section 3.9.1.5
		}
		l.tcp.Close()
	})
	return nil
}

// error translates errors of crypto/tls and TCP on an open lane into those of this package. The
// program of a peer ends a lane by an alert. A connection that ends without one was abandoned, or
// the network or the end of the process has ended it (RFC 8446, section 6.1).
func (l *tlsLane) error(err error) error {
	switch {
	case err == nil, err == io.EOF && !l.closed.Load(), errors.Is(err, os.ErrDeadlineExceeded) && !l.closed.Load():
		return err
	case l.closed.Load(), errors.Is(err, net.ErrClosed):
		return &carrierError{kind: net.ErrClosed, cause: err}
	case refusedByAlert(err):
		return &carrierError{kind: ErrRefusedByPeer, cause: err}
	}
	l.segment.distrust()
	return &carrierError{kind: ErrLost, cause: err}
}

// StoodStill implements [Stalling].
func (l *tlsLane) StoodStill() { l.segment.distrust() }

// refusedByAlert recognises the alerts of [refused], which crypto/tls has no type for.
func refusedByAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return false
	}
	text := op.Err.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "access denied")
}

// recordMost is the longest payload of a TLS record (RFC 8446, section 5.1); flushMost bounds the
// records that go to the kernel in one call.
const (
	recordMost = 16 << 10
	flushMost  = 128 << 10
)

// records gathers the writes of crypto/tls, so that many records cost one system call. It retains
// bytes that the kernel does not take before a deadline: for crypto/tls, a deadline never fails a
// Write. Only one goroutine writes.
type records struct {
	*net.TCPConn
	mu        sync.Mutex // the end of a lane, and a reader's alert, may come beside a Write
	pending   []byte
	gathering bool
	ended     atomic.Bool // TCP has: what comes before is TLS's own end
}

func (r *records) Read(p []byte) (int, error) {
	n, err := r.TCPConn.Read(p)
	if err == io.EOF {
		r.ended.Store(true)
	}
	return n, err
}

func (r *records) gather(on bool) {
	r.mu.Lock()
	r.gathering = on
	r.mu.Unlock()
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, p...)
	if r.gathering {
		return len(p), nil
	}
	return len(p), r.write()
}

// flush leaves no more than that many bytes to be written.
func (r *records) flush(most int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) <= most {
		return nil
	}
	return r.write()
}

func (r *records) write() error {
	n, err := r.TCPConn.Write(r.pending)
	r.pending = append(r.pending[:0], r.pending[n:]...)
	return err
}

// smallSegment is a segment size, TCP options included, that passes wherever QUIC does: IPv6
// carries packets of 1280 bytes on every link (RFC 8200, section 5), with 60 bytes of headers.
const smallSegment = 1220

// segment is the segment size of a dialler's lanes. If a router drops large packets without an ICMP
// message, TCP sends them again without end, by the defaults of Linux (ip-sysctl,
// tcp_mtu_probing). One side cannot see whether a loss is of that kind. So lanes that are dialled
// after any loss use small segments in both directions. The zero value lets TCP choose.
type segment struct{ small atomic.Bool }

// ask asks for small segments on a socket that is not connected yet: it is the Control of a
// [net.Dialer]. TCP_MAXSEG "also changes the MSS value announced to the other end" (tcp(7)).
func (s *segment) ask(_, _ string, socket syscall.RawConn) error {
	if s.small.Load() {
		_ = socket.Control(func(fd uintptr) { // without it the path is as it was
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, smallSegment)
		})
	}
	return nil
}

// distrust notes that a lane was lost, or has stalled. A listener has nil: the dialling side asks
// for both directions.
func (s *segment) distrust() {
	if s != nil {
		s.small.Store(true)
	}
}
