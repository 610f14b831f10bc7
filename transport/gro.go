package transport

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// groConn is a UDP socket for which the kernel joins successive packets of one flow (UDP_GRO,
// Linux 5.0): one system call returns up to 64 KiB of them. quic-go does not use UDP_GRO. It reads
// by ReadBatch if a connection has it, and sends by the embedded connection.
//
// Only one goroutine may call ReadBatch, as quic-go does.
type groConn struct {
	*net.UDPConn
	buf     []byte       // what one system call may bring
	control []byte       // and its control messages
	train   []byte       // packets of buf that were not read yet
	size    int          // of each of them but the last
	from    *net.UDPAddr // where they came from
	port    netip.AddrPort
	rest    []byte // the control messages that all of them share: ECN, packet info
}

var _ interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
} = (*groConn)(nil)

// trainMost is the most that the kernel joins: the length of a UDP datagram is 16 bits.
// With less room the packets at the end would be lost.
const trainMost = 64 << 10

// WithGRO returns a UDP socket in place of conn for which the kernel joins packets, many to a
// system call (UDP_GRO). It returns conn itself if that is no UDP socket, or the kernel lacks
// UDP_GRO. Lanes use it already: it is for other users of quic-go, and for comparisons. Only one
// goroutine may read from the result, as quic-go does.
func WithGRO(conn net.PacketConn) net.PacketConn {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return conn
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return conn
	}
	var refused error
	err = raw.Control(func(fd uintptr) { refused = joinPackets(int(fd)) })
	if err != nil || refused != nil {
		return conn
	}
	return &groConn{UDPConn: udp, buf: make([]byte, trainMost), control: make([]byte, 256), rest: make([]byte, 0, 128)}
}

// ReadBatch puts one packet into each message, as recvmmsg(2) would. Packets that do not fit into
// ms wait for the next call: a train has more packets than quic-go has messages.
func (c *groConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for len(c.train) == 0 {
		if err := c.read(); err != nil {
			return 0, err
		}
	}
	n := 0
	for ; n < len(ms) && len(c.train) > 0; n++ {
		packet := c.train[:min(c.size, len(c.train))]
		c.train = c.train[len(packet):]
		m := &ms[n]
		m.N = copy(m.Buffers[0], packet)
		m.NN = copy(m.OOB, c.rest)
		m.Addr, m.Flags = c.from, 0
	}
	return n, nil
}

// read waits for the next train.
func (c *groConn) read() error {
	n, controls, _, from, err := c.UDPConn.ReadMsgUDPAddrPort(c.buf, c.control)
	if err != nil {
		return err
	}
	if from != c.port || c.from == nil { // quic-go holds on to it
		c.port, c.from = from, net.UDPAddrFromAddrPort(from)
	}
	c.train, c.size, c.rest = c.buf[:n], n, c.rest[:0]
	for data := c.control[:controls]; len(data) > 0; {
		head, body, remainder, err := unix.ParseOneSocketControlMessage(data)
		if err != nil {
			return err
		}
		if head.Level == unix.IPPROTO_UDP && head.Type == groLength && len(body) >= 4 {
			c.size = max(1, int(binary.NativeEndian.Uint32(body)))
		} else if whole := data[:len(data)-len(remainder)]; len(c.rest)+len(whole) <= cap(c.rest) {
			c.rest = append(c.rest, whole...)
		}
		data = remainder
	}
	return nil
}
