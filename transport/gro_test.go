package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/must"
)

func boundUDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func joined(t testing.TB, addr string) *groConn {
	t.Helper()
	c, ok := WithGRO(boundUDP(t, addr)).(*groConn)
	if !ok {
		t.Skip("SKIP: this kernel joins no UDP packets")
	}
	return c
}

// segments sends b as one train of packets (UDP_SEGMENT).
func segments(t *testing.T, from *net.UDPConn, to net.Addr, b []byte, size int) {
	t.Helper()
	raw, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var refused error
	raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) })
	if refused == nil {
		_, refused = from.WriteTo(b, to)
	}
	if refused != nil {
		t.Fatal(refused)
	}
}

func messages(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1452)}, make([]byte, 128)
	}
	return ms
}

// TestGROPackets: a train that has more packets than there are messages, and a last one
// that is shorter, comes as what was sent; so does what comes alone. Each packet has the
// train's sender and its ECN bits.
func TestGROPackets(t *testing.T) {
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		c, from := joined(t, host), boundUDP(t, host)
		raw, err := from.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, 2)
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 2)
		})
		raw, _ = c.SyscallConn()
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		})
		var want [][]byte
		train := func(size, bytes int) {
			b := make([]byte, bytes)
			rand.NewChaCha8([32]byte{byte(size)}).Read(b)
			segments(t, from, c.LocalAddr(), b, size)
			for ; len(b) > 0; b = b[min(size, len(b)):] {
				want = append(want, b[:min(size, len(b))])
			}
		}
		train(1200, 40*1200+7)
		train(1452, 1452)
		train(100, 64*100)
		train(1200, 30)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		batches := 0
		for ms := messages(8); len(want) > 0; batches++ {
			n, err := c.ReadBatch(ms, 0)
			if err != nil {
				t.Fatalf("%s: %d packets are missing: %v", host, len(want), err)
			}
			for _, m := range ms[:n] {
				if got := m.Buffers[0][:m.N]; len(want) == 0 || !bytes.Equal(got, want[0]) {
					t.Fatalf("%s: a packet of %d bytes came, %d are left", host, len(got), len(want))
				}
				want = want[1:]
				if m.Addr.String() != from.LocalAddr().String() {
					t.Errorf("%s: from %v, want %v", host, m.Addr, from.LocalAddr())
				}
				if head, body, _, err := unix.ParseOneSocketControlMessage(m.OOB[:m.NN]); err != nil || len(body) == 0 || body[0]&3 != 2 {
					t.Errorf("%s: control message %+v %v, %v, want ECT(0)", host, head, body, err)
				}
			}
		}
		if batches > 30 {
			t.Errorf("%s: %d batches for 107 packets", host, batches)
		}
	}
}

// TestGROEnds: a socket that is closed, or whose deadline passes, ends a read.
func TestGROEnds(t *testing.T) {
	c := joined(t, "127.0.0.1:0")
	c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.ReadBatch(messages(8), 0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { c.Close() })
	if _, err := c.ReadBatch(messages(8), 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestGROFallsBack: what is no UDP socket stays what it is.
func TestGROFallsBack(t *testing.T) {
	c := struct{ net.PacketConn }{boundUDP(t, "127.0.0.1:0")}
	if got := WithGRO(c); got != net.PacketConn(c) {
		t.Errorf("a socket of an unknown kind became %T", got)
	}
}

// bareStream is one stream of quic-go over sockets of its own, with the windows of this
// package's lanes.
func bareStream(t testing.TB, wrap func(net.PacketConn) net.PacketConn) (w *quic.SendStream, r *quic.ReceiveStream) {
	t.Helper()
	id := testIdentity(t)
	certificate := must.Get(id.selfSign(RoleDestination))
	config := quicConfig(&windowBudget{}, 0)
	config.MaxIncomingUniStreams = 1
	server := &quic.Transport{Conn: wrap(boundUDP(t, "127.0.0.1:0"))}
	client := &quic.Transport{Conn: wrap(boundUDP(t, "127.0.0.1:0"))}
	t.Cleanup(func() { client.Close(); server.Close() })
	l, err := server.Listen(&tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"bare"}}, config)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := client.Dial(context.Background(), server.Conn.LocalAddr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"bare"}}, config)
	if err != nil {
		t.Fatal(err)
	}
	there := must.Get(l.Accept(context.Background()))
	w = must.Get(conn.OpenUniStream())
	w.Write([]byte{0})
	r = must.Get(there.AcceptUniStream(context.Background()))
	io.ReadFull(r, make([]byte, 1))
	return w, r
}

// BenchmarkGRO is what GRO is worth to quic-go: one stream on loopback, both
// ends in this process. The two ways take turns, a second's worth each.
func BenchmarkGRO(b *testing.B) {
	stock := func(c net.PacketConn) net.PacketConn { return c }
	ways := []func(net.PacketConn) net.PacketConn{stock, WithGRO}
	block := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(block)
	const turn = 256 // blocks
	var took [2]time.Duration
	var moved [2]int64
	for i := 0; i < b.N; i++ {
		for k, wrap := range ways {
			w, r := bareStream(b, wrap)
			go func() {
				for range turn {
					w.Write(block)
				}
				w.Close()
			}()
			began := time.Now()
			n, err := io.Copy(io.Discard, r)
			if err != nil {
				b.Fatal(err)
			}
			took[k] += time.Since(began)
			moved[k] += n
		}
	}
	for k, name := range []string{"stock-MB/s", "gro-MB/s"} {
		b.ReportMetric(float64(moved[k])/took[k].Seconds()/1e6, name)
	}
	b.ReportMetric(0, "ns/op")
}
