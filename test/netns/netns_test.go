package netns

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNetwork: packets cross the router in both families, within its MTU, and do not affect
// this test's own namespace.
func TestNetwork(t *testing.T) {
	n := New(t)
	n.SetMTU(t, 1400)
	for _, address := range []string{n.Destination.IPv4, n.Destination.IPv6} {
		headers := 20 + 8
		if net.ParseIP(address).To4() == nil {
			headers = 40 + 8
		}
		from, to := sockets(t, n, address)
		for _, length := range []int{1400 - headers, 1400 - headers + 1, 1} {
			_, err := from.Write(make([]byte, length))
			if errors.Is(err, unix.EMSGSIZE) { // the router's answer to the packet before
				_, err = from.Write(make([]byte, length))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []int{1400 - headers, 1} { // the packet between them is too long
			to.SetReadDeadline(time.Now().Add(5 * time.Second))
			if got, _, err := to.ReadFrom(make([]byte, 1500)); got != want || err != nil {
				t.Errorf("to %s came %d bytes, %v, want %d", address, got, err, want)
			}
		}
	}
	if _, err := net.InterfaceByName(ToDestination); err == nil {
		t.Error("the router's interface is in the namespace of this test")
	}
}

// sockets are one socket of the source and one of the destination. The source's socket sends
// packets whole or not at all, and of any length (ip(7), IP_PMTUDISC_PROBE).
func sockets(t *testing.T, n *Network, address string) (from net.Conn, to net.PacketConn) {
	t.Helper()
	var err error
	n.Destination.Do(t, func() { to, err = net.ListenPacket("udp", net.JoinHostPort(address, "0")) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close() })
	n.Source.Do(t, func() { from, err = net.Dial("udp", to.LocalAddr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.Close() })
	raw, err := from.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	})
	return from, to
}
