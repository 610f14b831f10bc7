package transport

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/unixsocket"
)

func TestUnixSocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("socket file %v, %v, want mode 0600", info.Mode(), err)
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("listen twice: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket file is still there: %v", err)
	}
}

func TestUnixReplacesDeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestUnixKeepsOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("listen on a file: %v", err)
	}
	if text, err := os.ReadFile(path); string(text) != "data" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

func TestUnixErrors(t *testing.T) {
	d := &UnixDialer{Path: filepath.Join(t.TempDir(), "nobody")}
	start := time.Now()
	if _, err := d.Dial(t.Context()); !errors.Is(err, ErrUnreachable) || time.Since(start) < HandshakeTimeout {
		t.Errorf("dial: %v after %v, want ErrUnreachable after %v", err, time.Since(start), HandshakeTimeout)
	}
	long := filepath.Join(d.Path, strings.Repeat("x", unixsocket.MaxPath))
	if _, err := ListenUnix(long); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("listen on a long path: %v", err)
	}
	if _, err := (&UnixDialer{Path: long}).Dial(t.Context()); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("dial a long path: %v", err)
	}
	if _, err := ListenUnix(filepath.Join(d.Path, "sub")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("listen in no directory: %v", err)
	}
}

func TestUnixOwner(t *testing.T) {
	for _, c := range []struct {
		peer uint32
		self int
		ok   bool
	}{{0, 0, true}, {1000, 1000, true}, {0, 1000, true}, {1000, 0, false}, {1001, 1000, false}} {
		if err := ownerError(c.peer, c.self); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrAuth) {
			t.Errorf("peer %d of user %d: %v", c.peer, c.self, err)
		}
	}
}

// A lane gives its socket to those who can splice.
func TestUnixLaneIsConn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lane, err := (&UnixDialer{Path: path}).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lane.Close()
	if _, ok := lane.(syscall.Conn); !ok {
		t.Errorf("%T is no syscall.Conn", lane)
	}
}

// A dial waits for a listener that starts a moment later, and for no process that
// has cancelled it.
func TestUnixDialWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dialled := make(chan error, 1)
	go func() { // the listener ends it
		lane, err := (&UnixDialer{Path: path}).Dial(t.Context())
		if err == nil {
			lane.Close()
		}
		dialled <- err
	}()
	time.Sleep(3 * dialEvery)
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-dialled; err != nil {
		t.Errorf("the listener was late: %v", err)
	}
	l.Close()

	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	start := time.AfterFunc(dialEvery, func() { cancel(cause) })
	defer start.Stop()
	began := time.Now()
	if _, err := (&UnixDialer{Path: path}).Dial(ctx); !errors.Is(err, cause) || time.Since(began) >= HandshakeTimeout {
		t.Errorf("cancelled: %v after %v", err, time.Since(began))
	}
}
