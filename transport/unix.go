package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/unixsocket"
)

// UnixDialer opens lanes to a process of the same host that listens with
// [ListenUnix]. Its lanes are [syscall.Conn]s, so that data may be spliced
// through them without passing user space.
//
// The kernel vouches for the peer: it must be of this process's user, or root. A lane that the peer
// closed without CloseWrite ends in io.EOF, as one that it finished. The protocol on the lane has
// to mark its end.
type UnixDialer struct {
	Path string
}

// dialEvery is the time between two tries to reach who does not listen yet.
const dialEvery = 50 * time.Millisecond

// Dial fails with [ErrUnreachable] if no process listens within [HandshakeTimeout]: as with QUIC,
// the two sides may be started in any order.
func (d *UnixDialer) Dial(ctx context.Context) (Lane, error) {
	if err := unixsocket.CheckPath(d.Path); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	for deadline := time.Now().Add(HandshakeTimeout); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", d.Path)
		if err == nil {
			return newUnixLane(conn.(*net.UnixConn))
		}
		early := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
		if !early || time.Now().After(deadline) {
			return nil, dialError(ctx, err)
		}
		select {
		case <-time.After(dialEvery):
		case <-ctx.Done():
			return nil, dialError(ctx, err)
		}
	}
}

// unixListener accepts from processes of the same user.
type unixListener struct {
	*net.UnixListener
	turn chan struct{} // held by the one Accept that owns the deadline
}

// ListenUnix makes the socket file, which only this user may open; Close removes it. It replaces an
// existing file only if that is a socket without a listener.
func ListenUnix(path string) (Listener, error) {
	l, err := unixsocket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	return &unixListener{UnixListener: l, turn: make(chan struct{}, 1)}, nil
}

func (l *unixListener) Accept(ctx context.Context) (Lane, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("transport: accept: %w", context.Cause(ctx))
	}
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
			if lane, err := newUnixLane(conn); err == nil {
				return lane, nil
			}
		case ctx.Err() != nil:
			l.SetDeadline(time.Time{})
			return nil, fmt.Errorf("transport: accept: %w", context.Cause(ctx))
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.SetDeadline(time.Time{}) // a late word from an earlier Accept's context
		default:
			return nil, fmt.Errorf("transport: %w", err)
		}
	}
}

// unixLane is a connection whose other end belongs to this user.
type unixLane struct {
	conn *net.UnixConn
}

// Carrier implements [Carried].
func (l *unixLane) Carrier() Carrier { return Carrier{Name: "unix"} }

func newUnixLane(conn *net.UnixConn) (*unixLane, error) {
	if err := checkOwner(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return &unixLane{conn: conn}, nil
}

// checkOwner asks the kernel whose process made the other end.
func checkOwner(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	var user uint32
	controlErr := raw.Control(func(fd uintptr) { user, err = peerUser(int(fd)) })
	if err := errors.Join(controlErr, err); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	return ownerError(user, os.Geteuid())
}

func ownerError(peer uint32, self int) error {
	if peer == 0 || int(peer) == self {
		return nil
	}
	return fmt.Errorf("transport: %w: the peer is a process of user %d", ErrAuth, peer)
}

func (l *unixLane) Read(p []byte) (int, error) {
	n, err := l.conn.Read(p)
	return n, unixLaneError(err)
}

func (l *unixLane) Write(p []byte) (int, error) {
	n, err := l.conn.Write(p)
	return n, unixLaneError(err)
}

func (l *unixLane) CloseWrite() error             { return unixLaneError(l.conn.CloseWrite()) }
func (l *unixLane) SetDeadline(t time.Time) error { return l.conn.SetDeadline(t) }
func (l *unixLane) Close() error                  { return unixLaneError(l.conn.Close()) }

// SyscallConn gives the socket, for splice(2).
func (l *unixLane) SyscallConn() (syscall.RawConn, error) { return l.conn.SyscallConn() }

func unixLaneError(err error) error {
	switch {
	case err == nil, err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.Is(err, net.ErrClosed):
		return fmt.Errorf("transport: %w", err)
	}
	return &carrierError{kind: ErrPeerGone, cause: err}
}
