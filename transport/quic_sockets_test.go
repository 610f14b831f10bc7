package transport

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// group opens n steered sockets.
func group(t testing.TB, n int) []net.PacketConn {
	t.Helper()
	conns, err := listenSockets("127.0.0.1:0", n)
	if err != nil || len(conns) != n {
		t.Fatalf("%d sockets, want %d: %v", len(conns), n, err)
	}
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	return conns
}

// TestSteer sends what begins like QUIC packets, each from an address of its own, and
// looks where they come out.
func TestSteer(t *testing.T) {
	for _, n := range []int{2, 3, 16} {
		conns := group(t, n)
		for i := range n {
			id, err := numbered{i, n}.GenerateConnectionID()
			if err != nil || id.Len() != 6 {
				t.Fatalf("connection ID %v: %v", id, err)
			}
			long := func(to, from []byte) []byte {
				b := append([]byte{0xc0, 0, 0, 0, 1, byte(len(to))}, to...)
				return append(append(b, byte(len(from))), from...)
			}
			for _, packet := range [][]byte{
				append([]byte{0x40}, id.Bytes()...),
				long(id.Bytes(), nil),
				long([]byte("\x5edrawn8!"), id.Bytes()),
				long([]byte("\x77drawn, as long as can be"[:20]), id.Bytes()),
			} {
				from := boundUDP(t, "127.0.0.1:0")
				if _, err := from.WriteTo(packet, conns[0].LocalAddr()); err != nil {
					t.Fatal(err)
				}
				conns[i].SetReadDeadline(time.Now().Add(5 * time.Second))
				got := make([]byte, 64)
				k, _, err := conns[i].ReadFrom(got)
				if err != nil || string(got[:k]) != string(packet) {
					t.Fatalf("socket %d of %d: %x, %v, want %x", i, n, got[:k], err, packet)
				}
			}
		}
		if _, err := boundUDP(t, "127.0.0.1:0").WriteTo([]byte{0x40}, conns[0].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		conns[0].SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, _, err := conns[0].ReadFrom(make([]byte, 64)); err != nil {
			t.Errorf("a packet without a connection ID: %v", err)
		}
	}
}

// TestNumberedIDs: an ID leads to its socket with any rest, and two differ.
func TestNumberedIDs(t *testing.T) {
	for n := 2; n <= listenSocketsMost; n++ {
		for i := range n {
			seen := map[string]bool{}
			for range 200 {
				id, _ := numbered{i, n}.GenerateConnectionID()
				if b := id.Bytes(); int(b[0])%n != i || seen[string(b)] {
					t.Fatalf("%d of %d: ID %x", i, n, b)
				}
				seen[string(id.Bytes())] = true
			}
		}
	}
}

// TestListenInUse: the shared address of a listener's sockets admits no other process.
func TestListenInUse(t *testing.T) {
	conns := group(t, 4)
	if again, err := listenSockets(conns[0].LocalAddr().String(), 4); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v, %v, want EADDRINUSE", again, err)
	}
}

// TestListenTogether: of two that want an address at the same time one gets it.
func TestListenTogether(t *testing.T) {
	const times = 500
	none := 0
	for range times {
		addr := freeUDP(t)
		var conns [2][]net.PacketConn
		var errs [2]error
		var both sync.WaitGroup
		for i := range conns {
			both.Go(func() { conns[i], errs[i] = listenSockets(addr, 4) })
		}
		both.Wait()
		got := 0
		for i := range conns {
			if errs[i] == nil {
				got++
				for _, c := range conns[i] {
					c.Close()
				}
			} else if !errors.Is(errs[i], syscall.EADDRINUSE) {
				t.Fatal(errs[i])
			}
		}
		if got > 1 {
			t.Fatalf("%d of two have %s: %v", got, addr, errs)
		}
		none += 1 - got
	}
	if none > times/100 { // a stranger may have taken an address that had become free
		t.Errorf("%d times of %d nobody got the address", none, times)
	}
}

// freeUDP is a free address of this host.
func freeUDP(t testing.TB) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

// TestLanesOverSockets has many lanes on a listener of several sockets, which all work
// both ways, also when the listener is closed; each socket has as many as any other.
func TestLanesOverSockets(t *testing.T) {
	for _, sockets := range []int{4, 6} {
		lanesOver(t, sockets)
	}
}

func lanesOver(t *testing.T, sockets int) {
	p := newQUICPair(t)
	conns, err := listenSockets("127.0.0.1:0", sockets)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listenOn(newSockets(conns...), Pinned{p.receiver, []PeerID{p.sender.ID()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.listener.Close()
	p.listener, p.dialer.Addr = l.(*quicListener), l.Addr().String()
	used := map[*quicSocket]int{}
	const lanes = 24
	var ours, theirs [lanes]*quicLane
	for i := range lanes {
		ours[i], theirs[i] = p.dial(t), p.accept(t)
		used[theirs[i].socket]++
	}
	for i, socket := range l.(*quicListener).sockets.all {
		if used[socket] != lanes/len(conns) {
			t.Errorf("socket %d has %d of %d lanes, there are %d sockets", i, used[socket], lanes, len(conns))
		}
	}
	p.listener.Close()
	for i := range lanes {
		go func() {
			io.Copy(theirs[i], theirs[i])
			theirs[i].CloseWrite()
		}()
		if _, err := ours[i].Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		ours[i].CloseWrite()
		if back, err := io.ReadAll(ours[i]); err != nil || len(back) != 100_001 {
			t.Errorf("lane %d: %d bytes come back, %v", i, len(back), err)
		}
	}
	var closing sync.WaitGroup // together: each may wait for its peer
	for i := range lanes {
		closing.Go(func() { ours[i].Close() })
		closing.Go(func() { theirs[i].Close() })
	}
	closing.Wait()
}
