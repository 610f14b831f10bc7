package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// eitherListener accepts lanes over QUIC and over TLS at one address, through one acceptGate:
// its limits are for both together.
type eitherListener struct {
	quic *quicListener
	tls  *tlsListener
	*acceptGate
}

// portTries is how often a free port is looked for that both carriers can have.
const portTries = 16

// ListenEither accepts lanes over QUIC at a UDP address, and over TLS at the TCP address with the
// same text, so that each peer may choose ([ListenQUIC], [ListenTLS]). Port 0 means a port that is
// free for both. Lanes outlive the Close of their listener.
func ListenEither(addr string, c Credentials, opts *ListenOptions) (Listener, error) {
	_, port, _ := net.SplitHostPort(addr)
	for tries := 1; ; tries++ {
		l, err := listenEither(addr, c, opts)
		if err == nil {
			return l, nil
		}
		if port != "0" || !errors.Is(err, syscall.EADDRINUSE) || tries == portTries {
			return nil, err
		}
	}
}

func listenEither(addr string, c Credentials, opts *ListenOptions) (*eitherListener, error) {
	conns, err := listenSockets(addr, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, fmt.Errorf("transport: listen: %w", err)
	}
	d := newAcceptGate(opts)
	quic, err := listenQUIC(newSockets(conns...), c, d)
	if err != nil {
		return nil, err
	}
	tls, err := listenTLS(quic.Addr().String(), c, d)
	if err != nil {
		quic.Close()
		return nil, err
	}
	return &eitherListener{quic, tls, d}, nil
}

// Addr is where QUIC is awaited; TLS is at the same host and port.
func (l *eitherListener) Addr() net.Addr { return l.quic.Addr() }

// Close ends the handshakes in progress and the lanes that were not accepted.
func (l *eitherListener) Close() error {
	l.shut(func() { l.quic.refuse(); l.tls.refuse() }, l.quic.sockets.release)
	return nil
}

// headStart is the time before the second carrier is tried beside the first, at most half of the
// whole time. If the first carrier refuses, the second is tried at once.
const headStart = time.Second

func headStartOf(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return min(headStart, time.Until(end)/2)
	}
	return headStart
}

// EitherDialer opens lanes over QUIC or over TLS, by the carrier that gets through. It tries one,
// and the other if no peer answers. The next Dial begins with the carrier that has answered. Both
// reach the same peer.
type EitherDialer struct {
	QUIC, TLS Dialer

	tls atomic.Bool // is tried first
}

// PreferTLS has TLS tried first from now on.
func (d *EitherDialer) PreferTLS() { d.tls.Store(true) }

// PreferQUIC has QUIC tried first from now on, as at the beginning.
func (d *EitherDialer) PreferQUIC() { d.tls.Store(false) }

// Of is the dialler of a carrier alone.
func (d *EitherDialer) Of(c Carrier) Dialer { return d.over(c.Name == "tls") }

func (d *EitherDialer) over(tls bool) Dialer {
	if tls {
		return d.TLS
	}
	return d.QUIC
}

// attempt is how one carrier's Dial went.
type attempt struct {
	lane Lane
	err  error
	tls  bool
}

// Dial fails with [ErrUnreachable] when the peer answers on neither carrier, and with
// [ErrHungUp] when it answers on one and ends the connection. Every other error is that of the
// carrier on which a peer has answered.
func (d *EitherDialer) Dial(ctx context.Context) (Lane, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan attempt)
	try := func(tls bool) {
		lane, err := d.over(tls).Dial(ctx)
		ended <- attempt{lane, err, tls}
	}
	first := d.tls.Load()
	go try(first) // ends with ctx, and is joined
	late := time.NewTimer(headStartOf(ctx))
	defer late.Stop()
	var failed error
	for running, both := 1, false; running > 0; {
		also := false
		select {
		case <-late.C:
			also = true
		case a := <-ended:
			running--
			if a.err == nil {
				d.tls.Store(a.tls)
				cancel()
				if running > 0 {
					discard(<-ended)
				}
				return a.lane, nil
			}
			also = errors.Is(a.err, ErrUnreachable)
			if failed == nil || !also {
				failed = a.err
			} else if errors.Is(failed, ErrUnreachable) {
				failed = bothFailed(a, failed)
			}
		}
		if also && !both {
			both = true
			running++
			go try(!first) // as the first
		}
	}
	return nil, failed
}

// bothFailed is why neither carrier reaches the peer. A peer that hangs up on one carrier may have
// a place later.
func bothFailed(second attempt, first error) error {
	quic, tls := first, second.err
	if !second.tls {
		quic, tls = tls, quic
	}
	kind := ErrUnreachable
	if errors.Is(quic, ErrHungUp) || errors.Is(tls, ErrHungUp) {
		kind = ErrHungUp
	}
	return &carrierError{kind: kind, cause: causes{fmt.Errorf("QUIC: %w", causeOf(quic)), fmt.Errorf("TLS: %w", causeOf(tls))}}
}

// causeOf is the cause within an error of a carrier.
func causeOf(err error) error {
	if e, ok := err.(*carrierError); ok {
		return e.cause
	}
	return err
}

// discard closes a lane that is not needed.
func discard(a attempt) {
	if a.err == nil {
		a.lane.Close()
	}
}
