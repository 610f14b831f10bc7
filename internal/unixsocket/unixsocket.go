// Package unixsocket creates sockets to which only this user and root may connect.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxPath is the length of the longest path that fits into sun_path with its NUL (unix(7)).
const MaxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// CheckPath returns an error for a path that is too long. The kernel's error would be EINVAL.
func CheckPath(path string) error {
	if len(path) > MaxPath {
		return fmt.Errorf("the path of a unix socket has %d bytes, at most %d fit: %w", len(path), MaxPath, unix.ENAMETOOLONG)
	}
	return nil
}

// Listen creates the socket file, to which only this user may connect. Close removes it. Listen
// replaces an existing file only if it is a socket on which no process listens any more.
func Listen(path string) (*net.UnixListener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	l, err := bind(path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeDead(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
		l, err = bind(path)
	}
	return l, err
}

// bind sets the mode before the name exists. Linux gives the file the mode of the socket's
// inode, so other users cannot connect at any time.
func bind(path string) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

func removeDead(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("the file exists and is not a socket")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return errors.New("another process listens there")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
