package transport

import (
	"context"
	"io"
	"net"
	"time"
)

// Lane is one ordered, reliable byte stream to the peer, whose identity the
// carrier has verified. Read and Write may be used at the same time by one
// goroutine each; a deadline in the past wakes both.
type Lane interface {
	io.Reader
	io.Writer
	// CloseWrite says that nothing more will be written: the peer reads
	// io.EOF after the last byte. Reading goes on.
	CloseWrite() error
	SetDeadline(time.Time) error
	// Close abandons the lane in both directions and releases what it holds.
	// Bytes that the peer has not yet read may be lost.
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

// Identified is a Lane whose carrier knows who the peer is.
type Identified interface {
	// Peer is the verified identity at the other end.
	Peer() ID
}
