package relay

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func newShaper(l Link) *shaper {
	return &shaper{link: l, random: rand.New(rand.NewPCG(1, 2))}
}

// TestShares: each fault is as frequent as configured, and identical for the same seed.
func TestShares(t *testing.T) {
	const n = 20000
	run := func() (Counts, []time.Time) {
		s := newShaper(Link{Loss: 0.05, Duplicate: 0.1, Corrupt: 0.2, Reorder: 0.3})
		var all []time.Time
		for range n {
			all = append(all, s.pass(time.Unix(1, 0), 100).at...)
		}
		return s.counts, all
	}
	c, at := run()
	near := func(name string, got, of int, share float64) {
		if f := float64(got) / float64(of); f < 0.9*share || f > 1.1*share {
			t.Errorf("%s: %v of the datagrams, want %v", name, f, share)
		}
	}
	near("lost", c.Lost, n, 0.05)
	near("duplicated", c.Duplicated, c.Passed, 0.1)
	near("corrupted", c.Corrupted, c.Passed, 0.2)
	near("reordered", c.Reordered, c.Passed, 0.3)
	if len(at) != c.Passed+c.Duplicated || c.Passed+c.Lost != n {
		t.Errorf("%d left, %+v", len(at), c)
	}
	if again, atAgain := run(); again != c || !slices.Equal(at, atAgain) {
		t.Errorf("the same seed gave %+v and %+v", c, again)
	}
}

// TestMost: datagrams up to a length pass.
func TestMost(t *testing.T) {
	s := newShaper(Link{Most: 1252})
	for _, n := range []int{1, 1252, 1253, 1452} {
		if passes := s.pass(time.Unix(1, 0), n).at != nil; passes != (n <= 1252) {
			t.Errorf("%d bytes: passes is %v", n, passes)
		}
	}
	if s.counts.Passed != 2 || s.counts.TooLong != 2 {
		t.Errorf("%+v", s.counts)
	}
}

// TestRate: the queue drains at the rate, and datagrams that do not fit are lost.
func TestRate(t *testing.T) {
	s := newShaper(Link{Rate: 1 << 20, Queue: 10 << 10, Delay: time.Second})
	now := time.Unix(1, 0)
	var last time.Time
	for range 20 {
		for _, at := range s.pass(now, 1<<10).at {
			last = at
		}
	}
	if s.counts.Passed != 10 || s.counts.Overflowed != 10 {
		t.Errorf("%+v, want 10 that pass", s.counts)
	}
	want := now.Add(time.Second + 10*time.Second/1024)
	if d := last.Sub(want).Abs(); d > time.Microsecond {
		t.Errorf("the last leaves at %v, want %v", last, want)
	}
	if s.pass(now.Add(time.Second), 1<<10).at == nil {
		t.Error("the queue has not drained")
	}
}

// TestOrder: jitter keeps the order, reordering does not.
func TestOrder(t *testing.T) {
	for _, l := range []Link{{Delay: time.Millisecond, Jitter: 5 * time.Millisecond}, {Reorder: 0.2}} {
		s := newShaper(l)
		inOrder, last := true, time.Time{}
		for i := range 1000 {
			at := s.pass(time.Unix(1, 0).Add(time.Duration(i)*100*time.Microsecond), 1).at[0]
			inOrder = inOrder && !at.Before(last)
			last = at
		}
		if inOrder != (l.Reorder == 0) {
			t.Errorf("%+v: in order: %v", l, inOrder)
		}
	}
}

// TestLineDelays: a datagram leaves when it is due. It never leaves if the line is cut
// before that.
func TestLineDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{wake: make(chan struct{}, 1), shaper: *newShaper(Link{Delay: time.Second, Corrupt: 1})}
		quit, came := make(chan struct{}), make(chan []byte, 4)
		go l.run(quit) // quit ends it
		began := time.Now()
		send := func(data []byte) { came <- data }
		l.put(began, []byte{0, 0}, send)
		got := <-came
		if time.Since(began) != time.Second || bytes.Equal(got, []byte{0, 0}) {
			t.Errorf("%v after %v", got, time.Since(began))
		}
		l.put(time.Now(), []byte{0}, send)
		l.set(func(l *Link) { l.Cut = true })
		time.Sleep(2 * time.Second)
		l.set(func(l *Link) { l.Cut = false })
		time.Sleep(2 * time.Second)
		if len(came) > 0 {
			t.Error("a datagram has passed a cut")
		}
		close(quit)
	})
}

// TestLineIsBounded: a sender that is faster than the line costs no more memory.
func TestLineIsBounded(t *testing.T) {
	l := &line{wake: make(chan struct{}, 1), shaper: *newShaper(Link{Delay: time.Hour})}
	data := make([]byte, 1<<20)
	for range 20 {
		l.put(time.Now(), data, nil)
	}
	if len(l.waiting) != 16 || l.counts().Overflowed != 4 {
		t.Errorf("%d wait, %+v", len(l.waiting), l.counts())
	}
}

// TestRelay: datagrams pass both ways. The server sees one address for a client, and a new
// one after Rebind. A cut of one direction does not affect the other.
func TestRelay(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	r, err := Listen(server.LocalAddr().String(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	client, err := net.Dial("udp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	hear := func(c net.Conn, limit time.Duration) (string, netip.AddrPort) {
		room := make([]byte, 100)
		c.SetReadDeadline(time.Now().Add(limit))
		if c == net.Conn(server) {
			n, from, _ := server.ReadFromUDPAddrPort(room)
			return string(room[:n]), from
		}
		n, _ := c.Read(room)
		return string(room[:n]), netip.AddrPort{}
	}
	const soon, never = 10 * time.Second, 100 * time.Millisecond
	var seen []netip.AddrPort
	for i := range 4 {
		if i == 2 {
			r.Rebind()
		}
		fmt.Fprintf(client, "ask %d", i)
		text, from := hear(server, soon)
		if text != fmt.Sprintf("ask %d", i) {
			t.Fatalf("the server got %q", text)
		}
		seen = append(seen, from)
		server.WriteToUDPAddrPort([]byte("answer"), from)
		if text, _ := hear(client, soon); text != "answer" {
			t.Fatalf("the client got %q", text)
		}
	}
	if seen[0] != seen[1] || seen[1] == seen[2] || seen[2] != seen[3] {
		t.Errorf("the server saw %v", seen)
	}
	r.Cut(Down)
	fmt.Fprint(client, "ask")
	if text, from := hear(server, soon); text != "ask" {
		t.Errorf("the server got %q over a good line", text)
	} else {
		server.WriteToUDPAddrPort([]byte("answer"), from)
	}
	if text, _ := hear(client, never); text != "" {
		t.Errorf("the client got %q through a cut", text)
	}
	// The relay may not have run yet.
	for end := time.Now().Add(soon); r.Counts(Down).Cut == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	r.Heal()
	if c := r.Counts(Down); c.Cut != 1 || c.Passed != 4 {
		t.Errorf("%+v", c)
	}
}
