package transport

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/quic-go/quic-go"
	"golang.org/x/sys/unix"
)

// quicSockets are UDP sockets that are opened and closed together, with their users: the
// lanes on them and the listener. The last one closes them all: a socket that leaves a
// group which the kernel steers (steered) changes the numbers of the others.
type quicSockets struct {
	all   []*quicSocket
	users atomic.Int64
}

// quicSocket is one of them, with its receiver goroutine, which quic-go runs.
type quicSocket struct {
	conn      net.PacketConn
	transport *quic.Transport
}

// newSockets takes the sockets over; there is one user, the caller.
func newSockets(conns ...net.PacketConn) *quicSockets {
	s := new(quicSockets)
	s.users.Store(1)
	for i, conn := range conns {
		conn = WithGRO(conn)
		t := &quic.Transport{Conn: conn}
		if len(conns) > 1 {
			t.ConnectionIDGenerator = numbered{i, len(conns)}
		}
		s.all = append(s.all, &quicSocket{conn, t})
	}
	return s
}

func (s *quicSockets) release() {
	if s.users.Add(-1) > 0 {
		return
	}
	for _, one := range s.all {
		one.transport.Close() // joins quic-go's reader of the socket
		one.conn.Close()
	}
}

// socketBuffer is what quic-go asks the kernel for, and takes with CAP_NET_ADMIN, for
// each direction of a socket: its desiredBufferSize.
const socketBuffer = 7 << 20

// BuffersNeedPrivilege reports whether the kernel gives a UDP socket of this process the
// buffers that QUIC asks for only to CAP_NET_ADMIN (socket(7), net.core.rmem_max and wmem_max).
func BuffersNeedPrivilege() bool {
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return true
	}
	defer conn.Close()
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
	c := (&quicSocket{conn: conn}).carrier()
	return c.ReceiveBuffer < socketBuffer || c.SendBuffer < socketBuffer
}

// congestionWindow is the largest that quic-go has: 10,000 packets of 1,452 bytes.
const congestionWindow = 10_000 * 1452

// quicPayload is the UDP payload that a path has to carry for QUIC, and the size that a
// connection begins with (RFC 9000, section 14). A larger one, as quic-go's 1280, would make
// the handshake fail between the two. The path's own is found within some 20 round trips: one
// probe every 5 of them.
const quicPayload = 1200

// PathMTUError is the error for a path whose packets are too short for QUIC.
type PathMTUError struct {
	MTU  int // in bytes, as the kernel knows it from its interface or from a router
	Need int // in bytes, for the address family
}

// Error names both sizes.
func (e *PathMTUError) Error() string {
	return fmt.Sprintf("the path's MTU is %d bytes, and QUIC needs %d", e.MTU, e.Need)
}

// narrowPath is a *PathMTUError if the kernel knows that the path to an address is too
// narrow. It learns that from the ICMP messages that packets of the handshake cause. Of
// IPv6 no path is: its least MTU is 1280 (RFC 8200, section 5).
func narrowPath(to netip.AddrPort) error {
	const need = quicPayload + 8 + 20 // with the headers of UDP and IPv4
	if !to.Addr().Is4() {
		return nil
	}
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to)) // sends nothing
	if err != nil {
		return nil
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	mtu := need
	err = option(raw, func(fd int) (err error) {
		mtu, err = pathMTU(fd)
		return err
	})
	if err != nil || mtu >= need {
		return nil
	}
	return &PathMTUError{mtu, need}
}

// carrier is what the kernel has granted.
func (s *quicSocket) carrier() Carrier {
	c := Carrier{Name: "quic", Window: congestionWindow}
	_, c.GRO = s.conn.(*groConn)
	sock, ok := s.conn.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return c
	}
	_ = raw.Control(func(fd uintptr) { // a closed socket has no values
		c.ReceiveBuffer, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		c.SendBuffer, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
	})
	return c
}

// listenSocketsMost is how many sockets a listener opens at most. By a profile on the
// machine that README quotes one receiver would take some 2.7 GB/s from the kernel, so
// that these are beyond 300 Gbit/s.
const listenSocketsMost = 16

// listenSockets opens the sockets of a listener at one address: one for each core, so
// that the lanes of a peer do not all wait for one receiver; or a single one where the
// kernel does not steer.
func listenSockets(addr string, cores int) ([]net.PacketConn, error) {
	return listenFirst(addr, func(at netip.AddrPort) ([]net.PacketConn, error) {
		return listenSocketsAt(net.UDPAddrFromAddrPort(at), cores)
	})
}

func listenSocketsAt(local *net.UDPAddr, cores int) ([]net.PacketConn, error) {
	one, err := net.ListenUDP("udp", local)
	n := min(cores, listenSocketsMost)
	if err != nil || n < 2 {
		return []net.PacketConn{one}, err
	}
	if group, err := steered(one, n); err == nil {
		return group, nil
	}
	one.Close() // it may be one of a group by now
	one, err = net.ListenUDP("udp", local)
	return []net.PacketConn{one}, err
}

// steered opens n-1 further sockets at the address of one. The kernel gives a packet to the socket
// that its connection ID names (SO_REUSEPORT, Linux 3.9, with a program, 4.5). By default the
// kernel chooses by the sender's address: a connection whose address changes on the way (RFC 9000,
// section 9) would be lost.
//
// The first socket is bound before it may share its address. With SO_REUSEPORT set earlier, it
// would join a socket of another process of the same user, instead of failing because the address
// is in use.
func steered(one *net.UDPConn, n int) (group []net.PacketConn, err error) {
	defer func() {
		if err != nil {
			for _, c := range group {
				c.Close()
			}
		}
	}()
	share := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
	raw, err := one.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := option(raw, share); err != nil {
		return nil, err
	}
	shared := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return option(raw, share) }}
	for range n - 1 {
		c, err := shared.ListenPacket(context.Background(), "udp", one.LocalAddr().String())
		if err != nil {
			return group, err
		}
		group = append(group, c)
	}
	err = option(raw, func(fd int) error { return attachSteering(fd, n) })
	return append([]net.PacketConn{one}, group...), err
}

// option sets or reads one of a socket.
func option(raw syscall.RawConn, call func(fd int) error) error {
	var refused error
	if err := raw.Control(func(fd uintptr) { refused = call(int(fd)) }); err != nil {
		return err
	}
	return refused
}

// numbered makes connection IDs that steer leads to socket number i of n. Those of a dialler's
// lanes are numbered of 256, which leads lanes in a row to sockets in a row.
type numbered struct{ i, n int }

// GenerateConnectionID implements [quic.ConnectionIDGenerator].
func (g numbered) GenerateConnectionID() (quic.ConnectionID, error) {
	id := make([]byte, g.ConnectionIDLen())
	rand.Read(id) // never fails
	first := int(id[0])%(256/g.n)*g.n + g.i
	id[0] = byte(first)
	return quic.ConnectionIDFromBytes(id), nil
}

// ConnectionIDLen implements [quic.ConnectionIDGenerator].
func (numbered) ConnectionIDLen() int { return 6 }
