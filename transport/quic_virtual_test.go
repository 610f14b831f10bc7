package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/migpipe/migpipe/test/simnet"
)

// What follows is about time, and so in virtual time: what a lane takes to notice
// that its path, its peer or its address has gone.

var (
	virtualListener = netip.MustParseAddrPort("10.0.0.2:7000")
	virtualDialer   = netip.MustParseAddrPort("10.0.0.1:1024")
)

// usualPath has a round trip of 20 ms.
var usualPath = simnet.Path{Delay: 10 * time.Millisecond, Rate: 100 << 20, Queue: 100 * time.Millisecond}

// virtualPair is a listener and its dialler on a network of their own, in a bubble.
type virtualPair struct {
	*quicPair
	net    *simnet.Network
	socket net.PacketConn // the listener's
	idle   time.Duration  // the listener's
}

func inVirtualTime(t *testing.T, path simnet.Path, f func(*testing.T, *virtualPair)) {
	synctest.Test(t, func(t *testing.T) {
		p := &virtualPair{quicPair: &quicPair{sender: testIdentity(t), receiver: testIdentity(t)}, net: simnet.New(1, path)}
		p.listen(t)
		p.dialer = &QUICDialer{
			Addr: virtualListener.String(), Credentials: Pinned{p.sender, []PeerID{p.receiver.ID()}},
			Socket: func() (net.PacketConn, error) { return p.net.Socket(virtualDialer), nil },
		}
		f(t, p)
	})
}

func (p *virtualPair) listen(t *testing.T) {
	t.Helper()
	p.socket = p.net.Socket(virtualListener)
	l, err := ListenQUICOn(p.socket, Pinned{p.receiver, []PeerID{p.sender.ID()}}, &ListenOptions{Idle: p.idle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.listener = l.(*quicListener)
}

// beat writes 64 bytes on a lane at every Heartbeat, as both sides of a migration do.
// It ends with the lane.
func beat(lane *quicLane) {
	for {
		lane.Write(make([]byte, 64))
		select {
		case <-time.After(KeepAlive):
		case <-lane.conn.Context().Done():
			return
		}
	}
}

// ending is how long from now on a lane can be read.
func ending(lane Lane) <-chan time.Duration {
	took, began := make(chan time.Duration, 1), time.Now()
	go func() {
		io.Copy(io.Discard, lane)
		took <- time.Since(began)
	}()
	return took
}

// RFC 9000, section 10.1: the idle timer restarts with each packet that comes, and with the
// first packet that asks for an answer after that. The latter leaves with the next
// beat or keep-alive.
func TestQUICNoticesPartition(t *testing.T) {
	for _, beats := range []bool{true, false} {
		shortest, longest := time.Hour, time.Duration(0)
		for after := time.Duration(0); after < KeepAlive; after += 25 * time.Millisecond {
			inVirtualTime(t, usualPath, func(t *testing.T, p *virtualPair) {
				ours := p.dial(t)
				theirs := p.accept(t)
				if beats {
					go beat(ours)
					go beat(theirs)
				}
				time.Sleep(3*time.Second + after)
				p.net.Cut(simnet.All)
				for _, ended := range []<-chan time.Duration{ending(ours), ending(theirs)} {
					took := <-ended
					shortest, longest = min(shortest, took), max(longest, took)
				}
			})
		}
		const rtt = 20 * time.Millisecond
		if shortest < IdleTimeout-rtt || longest > IdleTimeout+KeepAlive+rtt {
			t.Errorf("with beats %v: noticed after %v to %v, want %v and at most %v more", beats, shortest, longest, IdleTimeout, KeepAlive)
		}
	}
}

// TestQUICIdle: each side loses a lane after its own Idle, and above 5 s after the other's
// if that is less; no sooner than MinIdleTimeout.
func TestQUICIdle(t *testing.T) {
	const s = time.Second
	for _, c := range []struct{ dialer, listener, wantDialer, wantListener time.Duration }{
		{0, 0, IdleTimeout, IdleTimeout},
		{5 * s, 5 * s, 5 * s, 5 * s},
		{5 * s, 0, 5 * s, IdleTimeout},
		{0, 5 * s, IdleTimeout, 5 * s},
		{30 * s, 8 * s, 8 * s, 8 * s},
		{30 * s, s, 5 * s, s},
		{time.Nanosecond, 0, MinIdleTimeout, IdleTimeout},
	} {
		inVirtualTime(t, usualPath, func(t *testing.T, p *virtualPair) {
			p.listener.Close()
			p.socket.Close()
			p.idle, p.dialer.Idle = c.listener, c.dialer
			p.listen(t)
			ours := p.dial(t)
			theirs := p.accept(t)
			go beat(ours)
			go beat(theirs)
			time.Sleep(3 * time.Second)
			p.net.Cut(simnet.All)
			dialer, listener := ending(ours), ending(theirs)
			for ended, want := range map[<-chan time.Duration]time.Duration{dialer: c.wantDialer, listener: c.wantListener} {
				if took := <-ended; took < want-20*time.Millisecond || took > want+KeepAlive+20*time.Millisecond {
					t.Errorf("%v and %v: noticed after %v, want %v and at most %v more", c.dialer, c.listener, took, want, KeepAlive)
				}
			}
		})
	}
}

// A listener that was killed and restarted answers the next beat with a reset.
func TestQUICNoticesRestart(t *testing.T) {
	for after := time.Duration(0); after < KeepAlive; after += 25 * time.Millisecond {
		inVirtualTime(t, usualPath, func(t *testing.T, p *virtualPair) {
			ours := p.dial(t)
			p.accept(t)
			go beat(ours)
			time.Sleep(3*time.Second + after)
			p.socket.Close()
			p.listen(t)
			began := time.Now()
			_, err := io.Copy(io.Discard, ours)
			if _, ok := errors.AsType[*quic.StatelessResetError](err); !ok || !errors.Is(err, ErrPeerGone) {
				t.Errorf("killed after %v: %v, want ErrPeerGone by a reset", after, err)
			}
			if took := time.Since(began); took > KeepAlive+4*usualPath.Delay {
				t.Errorf("killed after %v: noticed %v later, want the next beat and its answer", after, took)
			}
		})
	}
}

// Wherever a handshake is cut, both sides are done with it in time. A dialler that
// has had its last packet believes that it is connected.
func TestQUICHandshakeIsCut(t *testing.T) {
	dialled := 0
	for after := -time.Nanosecond; after < 10*usualPath.Delay; after += usualPath.Delay / 2 {
		inVirtualTime(t, usualPath, func(t *testing.T, p *virtualPair) {
			if after < 0 {
				p.net.Cut(simnet.All)
			}
			time.AfterFunc(after, func() { p.net.Cut(simnet.All) })
			began := time.Now()
			want := ErrUnreachable
			lane, err := p.dialer.Dial(t.Context())
			if err == nil {
				defer lane.Close()
				dialled++
				want = ErrPeerGone
				lane.Write([]byte{1})
				_, err = lane.Read(make([]byte, 1))
			}
			if took := time.Since(began); !errors.Is(err, want) || took > HandshakeTimeout {
				t.Errorf("cut after %v: %v after %v, want %v within %v", after, err, took, want, HandshakeTimeout)
			}
			time.Sleep(HandshakeTimeout + 2*usualPath.Delay - time.Since(began))
			synctest.Wait()
			if n := p.listener.halfOpen.count(); n != 0 {
				t.Errorf("cut after %v: %d connections are half open %v later", after, n, time.Since(began))
			}
		})
	}
	if dialled == 0 || dialled > 18 {
		t.Errorf("%d of 21 dials succeeded: the cuts have missed the handshake, or its end", dialled)
	}
}

// RFC 9000, section 9: a connection goes on when a NAT gives the dialler another
// address, which the listener has had proved before it believes in it. No side knows
// the new one before the dialler has sent from it: a beat later at the latest.
func TestQUICAddressChanges(t *testing.T) {
	outside := netip.MustParseAddrPort("10.0.0.9:5000")
	content := bytes.Repeat([]byte("migpipe!"), 1<<19)
	for _, back := range []bool{false, true} {
		inVirtualTime(t, usualPath, func(t *testing.T, p *virtualPair) {
			ours := p.dial(t)
			theirs := p.accept(t)
			io.ReadFull(theirs, make([]byte, 1)) // what dial has sent
			from, to := ours, theirs
			if back {
				from, to = theirs, ours
			}
			go func() {
				from.Write(content)
				from.CloseWrite()
			}()
			half := make([]byte, len(content)/2)
			if _, err := io.ReadFull(to, half); err != nil {
				t.Fatal(err)
			}
			p.net.Rebind(virtualDialer, outside)
			rest, err := io.ReadAll(to)
			if err != nil || !bytes.Equal(append(half, rest...), content) {
				t.Errorf("back %v: %d bytes came of %d: %v", back, len(half)+len(rest), len(content), err)
			}
			if seen := theirs.conn.RemoteAddr().String(); seen != outside.String() {
				t.Errorf("back %v: the listener still sends to %v, want %v", back, seen, outside)
			}
		})
	}
}

// A path that loses so much of one window that quic-go ends the connection carries the lane
// that comes next.
func TestQUICTooManyGaps(t *testing.T) {
	path := simnet.Path{Delay: 40 * time.Millisecond, Rate: 40e6, Queue: 30 * time.Millisecond}
	inVirtualTime(t, path, func(t *testing.T, p *virtualPair) {
		const size = 64 << 20
		carry := func() (int64, error) {
			ours := p.dial(t)
			theirs := p.accept(t)
			go func() {
				ours.Write(make([]byte, size))
				ours.CloseWrite()
			}()
			defer ours.Close()
			return io.Copy(io.Discard, theirs)
		}
		n, err := carry()
		if _, ok := errors.AsType[*quic.TransportError](err); !ok || !errors.Is(err, ErrPeerGone) {
			t.Fatalf("%d bytes came: %v, want too many gaps: the path is better than it should be", n, err)
		}
		if n, err := carry(); n != size+1 || err != nil {
			t.Errorf("of the next lane %d bytes came: %v", n, err)
		}
	})
}
