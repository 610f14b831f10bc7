package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/transport"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Word {
		os.Exit(Serve(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func start(t *testing.T, hosts bool, files ...string) *Broker {
	t.Helper()
	if !sandbox.Available() {
		t.Skip("SKIP: the kernel has no Landlock")
	}
	b, err := Start(files, hosts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func reads(t *testing.T, b *Broker, path, want string) {
	t.Helper()
	f, err := b.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || string(text) != want {
		t.Errorf("%s holds %q, %v, want %q", path, text, err, want)
	}
}

// TestReplacedByRename: a file is opened by its name, whichever file has that: one that
// was renamed over it, or is behind a link that was, or in a directory that was.
func TestReplacedByRename(t *testing.T) {
	top := t.TempDir()
	dir, plain := filepath.Join(top, "tls"), filepath.Join(top, "tls", "key")
	for _, name := range []string{dir, filepath.Join(dir, "v1"), filepath.Join(dir, "v2"), filepath.Join(top, "next")} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, plain, "old")
	write(t, filepath.Join(dir, "v1", "crl"), "old")
	write(t, filepath.Join(dir, "v2", "crl"), "new")
	linked := filepath.Join(dir, "current", "crl") // as in a volume of Kubernetes
	if err := errors.Join(os.Symlink("v1", filepath.Join(dir, "current")), os.Symlink("v2", filepath.Join(dir, "..next"))); err != nil {
		t.Fatal(err)
	}
	b := start(t, false, plain, linked)
	reads(t, b, plain, "old")
	reads(t, b, linked, "old")

	write(t, filepath.Join(dir, "new"), "new")
	rename(t, filepath.Join(dir, "new"), plain)
	rename(t, filepath.Join(dir, "..next"), filepath.Join(dir, "current"))
	reads(t, b, plain, "new")
	reads(t, b, linked, "new")

	write(t, filepath.Join(top, "next", "key"), "newer")
	rename(t, dir, filepath.Join(top, "gone"))
	rename(t, filepath.Join(top, "next"), dir)
	reads(t, b, plain, "newer")
	if _, err := b.Open(linked); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), linked) {
		t.Errorf("a file that is gone: %v", err)
	}
}

// TestOnlyWhatWasNamed: no other file is opened, and no host is looked up where none is to
// be. A question that this package would not send is refused too.
func TestOnlyWhatWasNamed(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "key"), filepath.Join(dir, "other")
	write(t, path, "key")
	write(t, other, "secret")
	b := start(t, false, path)
	if _, err := b.Open(other); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another file: %v", err)
	}
	reads(t, b, path, "key")
	for name, ask := range map[string]string{
		"another number": `{"id":7,"file":1}`, "a number below 0": `{"id":7,"file":-1}`, "a host": `{"id":7,"host":"localhost"}`,
		"too long": `{"id":7,"file":0` + strings.Repeat(" ", maxQuestion) + `}`, "no question": "GET /etc/shadow",
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, false, path)
			if _, err := b.conn.Write([]byte(ask)); err != nil {
				t.Fatal(err)
			}
			<-b.ended // which is the answer
			if _, err := b.Open(path); !errors.Is(err, errEnded) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	if _, err := net.LookupHost("localhost"); err != nil {
		t.Skip("SKIP: localhost has no address: /etc/hosts does not name it")
	}
	b := start(t, true)
	addrs, err := b.Lookup(t.Context(), "localhost")
	if err != nil || len(addrs) == 0 || !addrs[0].IsLoopback() {
		t.Errorf("localhost is %v, %v", addrs, err)
	}
	if _, err := b.Lookup(t.Context(), strings.Repeat("a", maxHost+1)); !errors.Is(err, transport.ErrNoAddress) {
		t.Errorf("a long name: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Lookup(ctx, "localhost"); !errors.Is(err, context.Canceled) {
		t.Errorf("after the asker has stopped waiting: %v", err)
	}
	if _, err := b.Lookup(t.Context(), "localhost"); err != nil {
		t.Errorf("after an answer that was not waited for: %v", err)
	}
}

// TestLeastRights: the process has no descriptor of ours but its socket, at most one
// capability and none without files, and no signal that is for a whole service ends it.
func TestLeastRights(t *testing.T) {
	path, device := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "device")
	write(t, path, "key")
	write(t, device, "")
	lent, err := unix.Open(device, unix.O_RDONLY, 0) // inherited by what is run, as a VMM's device is
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lent)
	b := start(t, false, path)
	reads(t, b, path, "key") // it has begun
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if err := syscall.Kill(b.PID(), s); err != nil {
			t.Error(err)
		}
	}
	reads(t, b, path, "key")
	proc := fmt.Sprintf("/proc/%d/", b.PID())
	names, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if target, _ := os.Readlink(proc + "fd/" + name.Name()); target == device {
			t.Errorf("descriptor %s is %s", name.Name(), target)
		}
	}
	status := may(t, b, 1<<unix.CAP_DAC_READ_SEARCH)
	if !strings.Contains(status, "NoNewPrivs:\t1\n") {
		t.Error("it may gain privileges")
	}
	may(t, start(t, true), 0) // no file needs it
	if env, err := os.ReadFile(proc + "environ"); err == nil && len(env) > 0 {
		t.Errorf("its environment is %q", env)
	}
}

// may checks the capabilities of the process against those that it may have.
func may(t *testing.T, b *Broker, most uint64) (status string) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		_, value, _ := strings.Cut(string(text), set+":\t")
		value, _, _ = strings.Cut(value, "\n")
		caps, err := strconv.ParseUint(value, 16, 64)
		if err != nil || caps&^most != 0 && os.Geteuid() == 0 {
			t.Errorf("%s is %q", set, value)
		}
	}
	return string(text)
}

// TestEndsWithItsParent: the end of the socket is its end, in the middle of an answer too.
func TestEndsWithItsParent(t *testing.T) {
	b := start(t, true)
	if _, err := b.Lookup(t.Context(), "127.0.0.1"); err != nil { // it has begun
		t.Fatal(err)
	}
	go b.Lookup(t.Context(), "a-name-that-takes-a-while.invalid") // ends with b
	b.Close()
	if !b.cmd.ProcessState.Success() {
		t.Errorf("it ended by %v", b.cmd.ProcessState)
	}
	if _, err := b.Lookup(t.Context(), "127.0.0.1"); !errors.Is(err, errEnded) {
		t.Errorf("afterwards: %v", err)
	}
	if err := syscall.Kill(b.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is left: %v", err)
	}
}

func TestReadable(t *testing.T) {
	for path, want := range map[string]string{
		"/etc/hosts": "/etc", "/no/pki/qemu/ca-cert.pem": "/no/pki", "/no/peers": "/no", "/peers": "/",
	} {
		if got := readable([]string{path}, false); !slices.Contains(got, want) || slices.Contains(got, "/") != (want == "/") {
			t.Errorf("%s needs %q, want %s", path, got, want)
		}
	}
	if got := readable(nil, true); !slices.Contains(got, "/etc") || slices.Contains(got, "/") {
		t.Errorf("names need %q", got)
	}
}

// FuzzQuestion: the broker opens no file but the named ones, and looks up a host only where it
// may, for any question.
func FuzzQuestion(f *testing.F) {
	for _, text := range []string{`{"id":1}`, `{"id":2,"file":1}`, `{"id":3,"file":-1}`, `{"id":4,"host":"dest.example"}`, `{"id":5,"file":2}`, `[]`} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, text []byte, hosts bool) {
		const files = 2
		q, err := parse(text, files, hosts)
		switch {
		case err != nil:
		case q.Host == "" && (q.File < 0 || q.File >= files), q.Host != "" && !hosts, len(q.Host) > maxHost:
			t.Errorf("%q is answered: %+v", text, q)
		}
	})
}
