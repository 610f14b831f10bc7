package transport

import (
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// smallSegment is a segment size, TCP options included, that passes wherever QUIC does: IPv6
// carries packets of 1280 bytes on every link (RFC 8200, section 5), 60 of which are headers.
const smallSegment = 1220

// segment is what a dialler has learned of the packets that a path carries. Where a router
// drops large ones, and no ICMP message says so, TCP sends them again without end: Linux does
// no better by default (ip-sysctl, tcp_mtu_probing). So the lanes that are dialled after any
// loss ask for small segments on both ways: which losses were of that kind, one side cannot
// see. The zero value lets TCP choose.
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

// distrust takes in that a lane was lost, or stood still. nil is that of a listener: the
// dialling side asks for both.
func (s *segment) distrust() {
	if s != nil {
		s.small.Store(true)
	}
}
