package transport

import (
	"cmp"
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/quic-go/quic-go"
)

// What may go wrong on any carrier, beside [ErrAuth], [io.EOF],
// [os.ErrDeadlineExceeded] and, after a Close of one's own, [net.ErrClosed].
var (
	// ErrUnreachable is the error of a Dial that no peer with this protocol answered.
	ErrUnreachable = errors.New("the peer cannot be reached")

	// ErrHungUp is an ErrUnreachable of a peer that answers, and ends the connection before
	// the handshake is done, as a listener does that has no place for it: dialling again
	// may help.
	ErrHungUp error = hungUpError{}

	// ErrPeerGone is the error of a lane that has ended: the peer closed it, died, or cannot be
	// reached any more. It ends no attempt.
	ErrPeerGone = errors.New("the peer is gone")

	// ErrLost is an ErrPeerGone of a lane that did not end in the peer's CloseWrite. The cause is
	// the network, a peer that was restarted, or a peer that has abandoned the connection. A
	// further Dial may succeed.
	ErrLost error = lostError{}
)

type hungUpError struct{}

func (hungUpError) Error() string { return "the peer ended the connection during the handshake" }
func (hungUpError) Unwrap() error { return ErrUnreachable }

type lostError struct{}

func (lostError) Error() string { return "the connection is lost" }
func (lostError) Unwrap() error { return ErrPeerGone }

// carrierError is a cause from below under one of the errors above. The cause
// may hold text from the peer.
type carrierError struct{ kind, cause error }

func (e *carrierError) Error() string {
	if e.kind == ErrRefusedByPeer { // the text is enough: TLS has other words for it
		return "transport: " + e.kind.Error() + " (" + printable(e.cause.Error(), maxReason) + ")"
	}
	return "transport: " + e.kind.Error() + ": " + PeerText(e.cause.Error())
}

func (e *carrierError) Unwrap() []error { return []error{e.kind, e.cause} }

// refusedFor is an ErrRefusedByPeer for the reason that the peer gives.
func refusedFor(reason string) error {
	return &carrierError{kind: ErrRefusedByPeer, cause: errors.New(cmp.Or(reason, "no reason was given"))}
}

// dialError separates a Dial that the caller cancelled from one that no peer answered.
func dialError(ctx context.Context, cause error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &carrierError{kind: errors.New("dial"), cause: context.Cause(ctx)}
	}
	return &carrierError{kind: ErrUnreachable, cause: cause}
}

// hungUp recognises that the peer has ended a connection without an alert of TLS.
func hungUp(err error) bool {
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		return e.Remote && (e.ErrorCode == quic.ConnectionRefused || e.ErrorCode == quic.ApplicationErrorErrorCode)
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return e.Remote
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
