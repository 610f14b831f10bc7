package migrate

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// peerListener is a listener that several authenticated peers reach, each by its own dialer.
type peerListener struct {
	transport.Listener
	dialer transport.Dialer

	mu    sync.Mutex
	peers []transport.PeerID // of the lanes that are dialled and not accepted yet
}

func newPeerListener(t *testing.T) *peerListener {
	d, l := pipe(t)
	return &peerListener{Listener: l, dialer: d}
}

// as is the dialer of a peer.
func (c *peerListener) as(id transport.PeerID) transport.Dialer { return peerDialer{c, id} }

func (c *peerListener) Accept(ctx context.Context) (transport.Lane, error) {
	lane, err := c.Listener.Accept(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	peer := c.peers[0]
	c.peers = c.peers[1:]
	return peerLane{lane, peer}, nil
}

type peerDialer struct {
	to *peerListener
	id transport.PeerID
}

func (d peerDialer) Dial(ctx context.Context) (transport.Lane, error) {
	d.to.mu.Lock()
	defer d.to.mu.Unlock()
	d.to.peers = append(d.to.peers, d.id)
	return d.to.dialer.Dial(ctx)
}

// peerLane is a lane of an authenticated peer.
type peerLane struct {
	transport.Lane
	id transport.PeerID
}

func (l peerLane) Peer() transport.PeerID      { return l.id }
func (l peerLane) Is(id transport.PeerID) bool { return l.id == id }

// twoPeers are a source that has got WELCOME, and another peer. The destination knows that
// peer too, and the peer knows the attempt's numbers.
func twoPeers(t *testing.T) (v *victim, served, other *hostile) {
	c := newPeerListener(t)
	v = newVictimAt(t, c.as(transport.PeerID{1}), c)
	served = v.source(t)
	served.journal = migration.NewJournalID()
	served.greet()
	other = v.source(t)
	other.attempt, other.dialer = served.attempt, c.as(transport.PeerID{2})
	return v, served, other
}

// isServed checks that a chunk of the source reaches the device.
func (h *hostile) isServed(t *testing.T) {
	t.Helper()
	h.chunk(0, 0, 0)
	for h.applied < 100 {
		h.receiveAck(t)
	}
}

// TestDataLaneOfAnotherPeer: the numbers of an attempt do not prove who dials a data lane.
// The destination closes the lane of another peer, before and after the source has dialled
// its own.
func TestDataLaneOfAnotherPeer(t *testing.T) {
	for name, first := range map[string]bool{"before": true, "after": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, served, other := twoPeers(t)
				if !first {
					served.data = served.dial(wire.LaneData)
				}
				lane := other.dial(wire.LaneData)
				lane.SetDeadline(time.Now().Add(time.Second))
				if _, err := lane.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the destination has taken the lane: %v", err)
				}
				if first {
					served.data = served.dial(wire.LaneData)
				}
				served.isServed(t)
				v.end(t, served)
			})
		})
	}
}

// TestControlLaneOfAnotherPeer: another peer names the current attempt, the next one, or the
// journals of both sides. It is refused, and the source stays served. No data lane proves yet
// that the source has received WELCOME.
func TestControlLaneOfAnotherPeer(t *testing.T) {
	hello := func(epoch uint64) func(*hostile, *hostile) wire.Message {
		return func(served, other *hostile) wire.Message {
			other.attempt.Epoch = epoch
			other.journal = served.journal
			return other.hello()
		}
	}
	for name, say := range map[string]func(served, other *hostile) wire.Message{
		"HELLO again":               hello(1),
		"HELLO of the next attempt": hello(2),
		"RESUME": func(served, other *hostile) wire.Message {
			return &wire.Resume{Attempt: other.attempt, Journal: served.journal, Peer: served.welcome.Journal}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, served, other := twoPeers(t)
				m := say(served, other)
				other.control = wire.NewControl(other.dial(wire.LaneControl))
				other.send(m)
				if _, ok := other.receive().(*wire.Declined); !ok {
					t.Errorf("the other peer was answered %+v", other.got)
				}
				served.data = served.dial(wire.LaneData)
				served.isServed(t)
				v.end(t, served)
			})
		})
	}
}

// TestFollowedByAnotherPeer: while devices are reset, only the peer whose attempt has ended
// may open the next.
func TestFollowedByAnotherPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, served, other := twoPeers(t)
		for _, d := range v.devices {
			d.resets = 2 * time.Second
		}
		served.data = served.dial(wire.LaneData)
		served.isServed(t)
		served.send(&wire.Abort{Attempt: served.attempt, Code: transport.CodeDevice, Text: "it has failed"})
		time.Sleep(time.Second) // the reset of the devices is under way
		other.attempt.Epoch++
		other.control = wire.NewControl(other.dial(wire.LaneControl))
		other.send(other.hello())
		if _, ok := other.receive().(*wire.Declined); !ok {
			t.Errorf("the other peer was answered %+v", other.got)
		}
		v.end(t, served)
	})
}

// end ends a source, and waits for the destination.
func (v *victim) end(t *testing.T, h *hostile) {
	t.Helper()
	v.cancel()
	for m := h.receive(); m != nil; m = h.receive() {
	}
	h.lane.Close()
	h.data.Close()
	r := <-v.done
	if now, err := v.devices[0].State(); err != nil || now != vfio.Running {
		t.Errorf("%v: the device is in %v, %v", r.err, now, err)
	}
}
