package unixsocket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListen checks that Listen replaces only a dead socket, and does not change any other
// file.
func TestListen(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want string // part of the error, "" for none
	}{
		"nothing":       {func(*testing.T, string) {}, ""},
		"dead socket":   {func(t *testing.T, path string) { socket(t, path).Close() }, ""},
		"live socket":   {func(t *testing.T, path string) { socket(t, path) }, "another process listens"},
		"file":          {func(t *testing.T, path string) { ok(t, os.WriteFile(path, []byte("data"), 0o644)) }, "not a socket"},
		"directory":     {func(t *testing.T, path string) { ok(t, os.Mkdir(path, 0o755)) }, "not a socket"},
		"dangling link": {func(t *testing.T, path string) { ok(t, os.Symlink("none", path)) }, "not a socket"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			c.make(t, path)
			before := describe(path)
			l, err := Listen(path)
			if c.want == "" {
				ok(t, err)
				checkServes(t, l, path)
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if after := describe(path); after != before {
				t.Errorf("the file was %s, and is %s", before, after)
			}
		})
	}
}

// socket returns a listener whose file stays after Close, as that of another process.
func socket(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	ok(t, err)
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l
}

// describe returns mode, size and time of the file at path, or the error.
func describe(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return err.Error()
	}
	return fs.FormatFileInfo(info)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkServes checks the mode of a listener's file, that a client can connect, and that Close
// removes the file.
func checkServes(t *testing.T, l *net.UnixListener, path string) {
	t.Helper()
	if at := describe(path); !strings.HasPrefix(at, "Srw------- ") {
		t.Errorf("the socket is %s", at)
	}
	conn, err := net.Dial("unix", path)
	ok(t, err)
	conn.Close()
	ok(t, l.Close())
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file exists after Close: %v", err)
	}
}

// TestModeComesFirst checks that other users cannot connect at any time: the events of the
// directory show that the mode does not change after the file exists. It does not depend on
// the umask.
func TestModeComesFirst(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	dir := t.TempDir()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	ok(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_ATTRIB)
	ok(t, err)
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	ok(t, err)
	if n, err := unix.Read(fd, make([]byte, 4096)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the mode changed after the file existed: %d bytes of events, %v", n, err)
	}
	checkServes(t, l, path)
}

// TestPath checks the error for a path that is too long.
func TestPath(t *testing.T) {
	for n, want := range map[int]error{1: nil, MaxPath: nil, MaxPath + 1: unix.ENAMETOOLONG} {
		if err := CheckPath(strings.Repeat("x", n)); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
	if _, err := Listen(strings.Repeat("x", MaxPath+1)); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("listen: %v", err)
	}
}
