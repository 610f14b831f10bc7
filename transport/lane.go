package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// Lane is one ordered, reliable byte stream to the peer, whose identity the
// carrier has verified. Read and Write may be used at the same time by one
// goroutine each; a deadline in the past wakes both.
type Lane interface {
	io.Reader
	io.Writer
	// CloseWrite ends this direction: the peer reads io.EOF after the last byte. This side can
	// still read.
	CloseWrite() error
	SetDeadline(time.Time) error
	// Close abandons the lane in both directions and releases what it holds.
	// Bytes that the peer has not yet read may be lost. Without CloseWrite before it
	// the peer reads [ErrLost]: this connection is abandoned, and may be dialled again.
	// The peer of a lane within a host reads io.EOF in both cases.
	Close() error
}

// Dialer opens lanes to one peer.
type Dialer interface {
	// Dial opens one more lane to the same peer. A lane that was dialled is
	// not yet an authenticated one: with TLS 1.3 a client learns only from the
	// peer's first bytes that it was accepted.
	Dial(ctx context.Context) (Lane, error)
}

// Listener accepts lanes from peers that the carrier has authenticated.
type Listener interface {
	Accept(ctx context.Context) (Lane, error)
	Addr() net.Addr
	Close() error
}

// Carried is a Lane that can say what carries it.
type Carried interface {
	Carrier() Carrier
}

// Carrier is what carries a lane, as far as this side can see.
type Carrier struct {
	Name string // "quic", "tls", "unix" or "pipe"
	GRO  bool   // the kernel joins the packets that come (UDP_GRO)
	// ReceiveBuffer and SendBuffer are what the kernel gives the lane's socket, in
	// bytes, 0 where that is of no interest.
	ReceiveBuffer, SendBuffer int
	// RTT is the least round trip that the carrier has seen, 0 where it measures none.
	RTT time.Duration
	// Window is the most that one lane can have on its way, in bytes, 0 for any amount:
	// what a long path needs beyond it, more lanes have to carry.
	Window int
}

// CarrierOf is what carries a lane, the zero value where it does not say.
func CarrierOf(l Lane) Carrier {
	if c, ok := l.(Carried); ok {
		return c.Carrier()
	}
	return Carrier{}
}

// Hint is the next step if the kernel gives a carrier less than it needs, else "".
func (c Carrier) Hint() string {
	var short []string
	for _, b := range []struct {
		has  int
		name string
	}{{c.ReceiveBuffer, "rmem"}, {c.SendBuffer, "wmem"}} {
		if b.has > 0 && b.has < socketBuffer {
			short = append(short, fmt.Sprintf("sysctl -w net.core.%s_max=%d", b.name, socketBuffer))
		}
	}
	if len(short) == 0 {
		return ""
	}
	return fmt.Sprintf("the kernel gives a socket %d KiB to receive and %d KiB to send, and QUIC at full speed needs %d KiB: %s",
		c.ReceiveBuffer>>10, c.SendBuffer>>10, socketBuffer>>10, strings.Join(short, "; "))
}

// Stalling is a Lane that its user can report as stalled although its connection lives. The
// carrier then uses smaller packets for the next lanes to the same peer.
type Stalling interface {
	StoodStill()
}

// Identified is a Lane whose carrier knows who the peer is.
type Identified interface {
	// Peer is the verified identity at the other end.
	Peer() PeerID
	// Is reports whether the peer may be called by an ID too: a certificate can have
	// several of the names that are expected.
	Is(PeerID) bool
}

// PeerOf is the peer of a lane, the zero ID where its carrier does not know.
func PeerOf(l Lane) PeerID {
	if p, ok := l.(Identified); ok {
		return p.Peer()
	}
	return PeerID{}
}

// IsPeer reports whether the peer of a lane is the one with that ID. Where the carrier
// does not know its peers, all are the one with the zero ID.
func IsPeer(l Lane, id PeerID) bool {
	if p, ok := l.(Identified); ok {
		return p.Is(id)
	}
	return id == PeerID{}
}

// peer is the part of a lane that is [Identified].
type peer struct{ ids []PeerID }

// Peer implements [Identified].
func (p peer) Peer() PeerID { return p.ids[0] }

// Is implements [Identified].
func (p peer) Is(id PeerID) bool { return slices.Contains(p.ids, id) }
