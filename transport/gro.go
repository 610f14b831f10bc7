package transport

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// groConn is a UDP socket whose kernel joins packets of one flow that come in a row
// (UDP_GRO, Linux 5.0): one system call brings up to 64 KiB of them. quic-go, which has
// nothing of that, reads from anything that has ReadBatch, and sends by what is embedded.
//
// Only one goroutine may call ReadBatch, as quic-go does.
type groConn struct {
	*net.UDPConn
	buf     []byte       // what one system call may bring
	control []byte       // and its control messages
	train   []byte       // packets of buf that nobody has read yet
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

// WithGRO gives a UDP socket whose packets the kernel joins, many to a system call (UDP_GRO),
// in place of conn, or conn itself where it is of another kind or its kernel does not do that.
// Lanes have it already: it is for others who use quic-go, and for comparisons with them.
// Only one goroutine may read what it gives, as quic-go does.
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

// ReadBatch gives one packet a message, as recvmmsg(2) would. What does not fit into ms is
// kept for the next call: a train has more packets than quic-go has messages.
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
