package cli

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/chaos/relay"
	"github.com/migpipe/migpipe/test/port"
)

// renewal is a migration of a file between programs with certificates. It lasts some seconds,
// over a path that the test can cut.
type renewal struct {
	*testing.T
	ca          *ca
	dir         string // with src, dst, from, to
	expired     time.Time
	address     string // of recv
	relay       *relay.Relay
	recv, send  *exec.Cmd
	heard, said *bufio.Scanner // the events of recv and of send
	answers     io.Writer      // to the questions of send
}

var arrived = regexp.MustCompile(`"bytes":[1-9]`)

// newRenewal begins a renewal with certificates that are valid for a while. If this
// machine pauses until they have expired, it begins again with a longer validity.
func newRenewal(t *testing.T, valid time.Duration) *renewal {
	t.Helper()
	for ; valid <= time.Hour; valid *= 2 {
		if r := beginRenewal(t, valid); r != nil {
			return r
		}
	}
	t.Fatal("the two do not meet")
	return nil
}

func beginRenewal(t *testing.T, valid time.Duration) *renewal {
	t.Helper()
	r := &renewal{T: t, ca: &ca{}, dir: t.TempDir(), expired: time.Now().Add(valid)}
	r.issue("src", "client", "src.example", valid)
	r.issue("dst", "server", "dst.example", valid)
	seconds := 3 + min(int(valid/time.Second), 30) // at 1 MiB/s
	state := make([]byte, seconds<<20)
	rand.NewChaCha8([32]byte{}).Read(state)
	if err := os.WriteFile(r.path("from"), state, 0o600); err != nil {
		t.Fatal(err)
	}
	r.address = port.Own(t)
	r.receive()
	var err error
	if r.relay, err = relay.Listen(r.address, 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.relay.Close() })
	r.send = command(t, "mig-send", "--json", "--lost-after", "1s", "--max-bandwidth", "1MiB/s", "--commit", "external", "--to", r.relay.Addr(), "--tls-dir", r.path("src"),
		"--peer-name", "dst.example", "--peer-name", "other.example", "--device", "d=file:"+r.path("from"))
	r.answers = answering(t, r.send)
	r.said = begin(t, r.send)
	r.answer("paused")
	contains(t, nextEvent(t, r.said, "sandbox"), `"landlock":`)
	for r.said.Scan() {
		if strings.HasPrefix(r.said.Text(), `{"event":"peer",`) {
			for !arrived.MatchString(nextEvent(t, r.heard, "progress")) { // over data lanes
			}
			return r
		}
	}
	r.recv.Process.Kill()
	r.recv.Wait()
	r.send.Wait()
	return nil
}

// answering returns the stdin of a program with --commit external.
func answering(t *testing.T, cmd *exec.Cmd) io.Writer {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func (r *renewal) answer(word string) {
	r.Helper()
	if _, err := io.WriteString(r.answers, word+"\n"); err != nil {
		r.Fatal(err)
	}
}

func (r *renewal) path(name string) string { return filepath.Join(r.dir, name) }

func (r *renewal) issue(dir, role, name string, valid time.Duration) {
	r.Helper()
	if err := r.ca.issue(r.path(dir), role, name, valid); err != nil {
		r.Fatal(err)
	}
}

// receive starts mig-recv, for the first time or again.
func (r *renewal) receive() {
	r.Helper()
	r.recv = command(r.T, "mig-recv", "--json", "--lost-after", "1s", "--listen", r.address, "--tls-dir", r.path("dst"), "--state-dir", r.path("state"),
		"--peer-name", "other.example", "--peer-name", "src.example", "--device", "d=file:"+r.path("to"))
	r.heard = begin(r.T, r.recv)
	contains(r.T, nextEvent(r.T, r.heard, "sandbox"), `"landlock":`)
}

// begin starts a program, which ends within patience, and returns its events.
func begin(t *testing.T, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out := start(t, cmd)
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	t.Cleanup(func() { late.Stop() })
	return bufio.NewScanner(out)
}

// cut ends all connections, and allows new ones once both sides have noticed. It returns the
// warnings of mig-send until then.
func (r *renewal) cut() (warned string) {
	r.Helper()
	r.relay.Cut()
	for lost := false; !lost; { // a data lane may be dialled before
		if !r.said.Scan() {
			r.Fatalf("mig-send has ended: %v", r.said.Err())
		}
		lost = strings.HasPrefix(r.said.Text(), `{"event":"path-lost",`)
		if strings.HasPrefix(r.said.Text(), `{"event":"warning",`) {
			warned += r.said.Text()
		}
	}
	nextEvent(r.T, r.heard, "path-lost")
	r.relay.Heal()
	return warned
}

// restored is when mig-send had its connection again.
func (r *renewal) restored() time.Time {
	r.Helper()
	_, text, _ := strings.Cut(nextEvent(r.T, r.said, "path-restored"), `"time":"`)
	text, _, _ = strings.Cut(text, `"`)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		r.Fatal(err)
	}
	return at
}

// TestRenewedWhileMigrating: renames replace the certificates, with new keys, the old ones
// expire, and the path is cut: the migration continues. A destination restarts with the
// complete copy. With another name it is not the migration's destination, though this source
// may send to it. With its own name and one more key it is.
func TestRenewedWhileMigrating(t *testing.T) {
	t.Parallel()
	r := newRenewal(t, 2*time.Second)
	r.issue("src", "client", "src.example", time.Hour)
	r.issue("dst", "server", "dst.example", time.Hour)
	time.Sleep(time.Until(r.expired))
	r.cut()
	r.restored()

	nextEvent(t, r.said, "ready")
	r.recv.Process.Kill()
	r.recv.Wait()
	r.issue("dst", "server", "other.example", time.Hour)
	r.receive()
	nextEvent(t, r.said, "path-lost")
	time.Sleep(time.Second) // the source dials it meanwhile
	again := time.Now()
	r.issue("dst", "server", "dst.example", time.Hour)
	if at := r.restored(); at.Before(again) {
		t.Error("the migration has continued with another name")
	}
	r.answer("commit")
	contains(t, nextEvent(t, r.said, "done"), `"outcome":"committed"`, `"peer":"dst.example"`)
	contains(t, nextEvent(t, r.heard, "done"), `"outcome":"committed"`, `"peer":"src.example"`)
	if err := errors.Join(r.send.Wait(), r.recv.Wait()); err != nil {
		t.Error(err)
	}
	from, err := os.ReadFile(r.path("from"))
	to, err2 := os.ReadFile(r.path("to"))
	if err := errors.Join(err, err2); err != nil || !bytes.Equal(from, to) {
		t.Errorf("%d bytes became %d, %v", len(from), len(to), err)
	}
}

// TestAnotherNameDoesNotJoin: if a certificate is damaged, the last good one stays in force,
// and the program reports the file and the reason. A source whose new certificate has another
// name does not continue, even if that name may send.
func TestAnotherNameDoesNotJoin(t *testing.T) {
	t.Parallel()
	r := newRenewal(t, time.Hour)
	if err := os.WriteFile(r.path("src/client-cert.pem"), []byte("spoiled"), 0o600); err != nil {
		t.Fatal(err)
	}
	warned := r.cut()
	if !strings.Contains(warned, "stays in force") {
		warned = nextEvent(t, r.said, "warning")
	}
	contains(t, warned, "stays in force: "+r.path("src/client-cert.pem"), "no PEM block")
	r.restored()

	r.issue("src", "client", "other.example", time.Hour)
	r.cut()
	contains(t, nextEvent(t, r.said, "done"), `"outcome":"aborted"`, "this attempt is another source's")
	if _, err := os.Stat(r.path("to")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the destination has the state: %v", err)
	}
}
