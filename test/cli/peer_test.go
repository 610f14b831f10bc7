package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// These tests act as the peer: as one of a future release, or as one that is lost at the
// worst moment.

func TestSendToNewerVersion(t *testing.T) {
	l, err := transport.ListenUnix(filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		served <- decline(t.Context(), l, "the source speaks protocol versions 1 to 1, the destination 8 to 9")
	}() // its one peer ends it
	stderr := exits(t, 7, exec.Command(filepath.Join(bin, "mig-send"), "--to", "unix:"+l.Addr().String(), "--device", "d=sim:mtty"))
	contains(t, stderr, "error: the peer says: the source speaks protocol versions 1 to 1, the destination 8 to 9", "hint: install the same release")
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// decline is a destination without a common version.
func decline(ctx context.Context, l transport.Listener, text string) error {
	lane, err := l.Accept(ctx)
	if err != nil {
		return err
	}
	defer lane.Close()
	if _, err := wire.ReadPreamble(lane); err != nil {
		return err
	}
	control := wire.NewControl(lane)
	hello, err := control.Receive()
	if err != nil {
		return err
	}
	err = control.Send(&wire.Declined{Attempt: *hello.About(), Code: transport.CodeVersion, Text: text})
	_, _ = control.Receive() // until the source hangs up
	return err
}

// TestInDoubt loses the destination when it has got COMMIT: it may or may not have
// started the devices. A file outlives the program, so the program asks until its
// limit.
func TestInDoubt(t *testing.T) {
	from := filepath.Join(t.TempDir(), "from")
	if err := os.WriteFile(from, []byte("state"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := listenUnix(t)
	served := serve(t, l, &vanishing{until: wire.TypeCommit})
	cmd := exec.Command(filepath.Join(bin, "mig-send"), "--json", "--doubt-for", "3s", "--to", "unix:"+l.Addr().String(), "--device", "d=file:"+from)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr := exits(t, 11, cmd)
	if !regexp.MustCompile(`error: the destination has not answered COMMIT for 3(\.[0-9]+)?s`).MatchString(stderr) {
		t.Errorf("in doubt for 3 s: %s", stderr)
	}
	contains(t, stdout.String(), `{"event":"path-lost",`, "in doubt: the destination has not answered COMMIT yet")
	contains(t, stderr, "hint: do NOT start the guest here", "hint: ask the destination first")
	contains(t, stdout.String(), `"outcome":"in-doubt"`, `"exit":11`, `"state":"STOP_COPY"`)
	if strings.Contains(stdout.String(), `"event":"held"`) {
		t.Errorf("it stayed for a file:\n%s", &stdout)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestInDoubtStays: a program in doubt holds a device that would end with it. A signal
// ends that only after the program has reported it. At an earlier signal, a cancel, the
// program asks the destination; a second one ends the wait for the answer.
func TestInDoubtStays(t *testing.T) {
	l := listenUnix(t)
	committed := make(chan struct{})
	served := serve(t, l, &vanishing{until: wire.TypeCancel, committed: committed})
	cmd := command(t, "mig-send", "--json", "--downtime-target", "20s", "--to", "unix:"+l.Addr().String(), "--device", "d=sim:xe?size=16KiB", "--device", "e=sim:xe?size=16KiB")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out := start(t, cmd)
	select {
	case <-committed:
	case err := <-served:
		t.Fatal("the source did not commit: ", err)
	}
	signalProcess(t, cmd, syscall.SIGINT)
	events := bufio.NewScanner(out)
	contains(t, nextEvent(t, events, "path-lost"), `"why":"`)
	again := time.Now()
	signalProcess(t, cmd, syscall.SIGINT)
	contains(t, nextEvent(t, events, "held"), `"devices":[{"name":"d"},{"name":"e"}]`, fmt.Sprintf(`"pid":%d,`, cmd.Process.Pid), "do NOT start the guest here")
	if took := time.Since(again); took > 3*time.Second {
		t.Errorf("the second signal has ended the wait after %v", took)
	}
	time.Sleep(100 * time.Millisecond)
	signalProcess(t, cmd, syscall.Signal(0)) // check that the process still exists
	signalProcess(t, cmd, syscall.SIGTERM)
	contains(t, nextEvent(t, events, "done"), `"outcome":"in-doubt"`, `"exit":11`, `"state":"STOP_COPY"`, "was lost when it was let go of")
	if events.Scan() {
		t.Errorf("after the done event: %s", events.Text())
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 11 {
		t.Errorf("%v, want exit 11", cmd.ProcessState)
	}
	contains(t, stderr.String(), "mig-send: error: in doubt: ", "hint: the state of d, e here lives only as long as this process")
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// nextEvent reads events up to the next one with a name.
func nextEvent(t *testing.T, events *bufio.Scanner, name string) string {
	t.Helper()
	for events.Scan() {
		if strings.HasPrefix(events.Text(), fmt.Sprintf(`{"event":%q,`, name)) {
			return events.Text()
		}
	}
	t.Fatalf("no %q event: %v", name, events.Err())
	return ""
}

func signalProcess(t *testing.T, cmd *exec.Cmd, s syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func listenUnix(t *testing.T) transport.Listener {
	t.Helper()
	l, err := transport.ListenUnix(filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// vanishing is a destination that takes streams and hangs up at the first control
// message.
type vanishing struct {
	until     wire.MessageType
	lies      bool            // READY has a wrong digest of the streams
	committed chan<- struct{} // closed by COMMIT, where it is not nil
	journal   migration.JournalID
	digests   []migration.StreamDigest // in HELLO's order
	ends      int
}

// serve acts as a destination for one source, and returns after it.
func serve(t *testing.T, l transport.Listener, v *vanishing) <-chan error {
	served := make(chan error, 1)
	go func() { served <- v.play(t.Context(), l) }()
	return served
}

func (v *vanishing) play(ctx context.Context, l transport.Listener) error {
	lane, err := l.Accept(ctx)
	if err != nil {
		return err
	}
	defer lane.Close()
	if _, err := wire.ReadPreamble(lane); err != nil {
		return err
	}
	control := wire.NewControl(lane)
	v.journal = migration.NewJournalID()
	for {
		m, err := control.Receive()
		if err != nil {
			return err
		}
		answer := v.answer(m)
		if _, ok := answer.(*wire.Welcome); ok {
			go swallow(ctx, l) // the source's hanging up ends it
		}
		if answer != nil {
			control.Send(answer)
		}
		if m.Type() == v.until {
			return nil
		}
	}
}

// answer is the destination's answer to a message, nil for none.
func (v *vanishing) answer(m wire.Message) wire.Message {
	switch m := m.(type) {
	case *wire.Hello:
		v.digests = make([]migration.StreamDigest, len(m.Devices))
		return v.welcome(m)
	case *wire.End:
		v.digests[m.Device] = m.Digest
		v.ends++
		if v.ends == len(v.digests) {
			ready := &wire.Ready{Attempt: m.Attempt, Journal: v.journal, Digest: wire.SetDigest(v.digests)}
			if v.lies {
				ready.Digest[0]++
			}
			return ready
		}
	case *wire.Commit:
		if v.committed != nil {
			close(v.committed)
		}
	}
	return nil
}

func (v *vanishing) welcome(m *wire.Hello) *wire.Welcome {
	w := &wire.Welcome{
		Attempt: m.Attempt, Version: wire.Version, Journal: v.journal, ChunkSize: m.ChunkSize,
		Lanes: 1, Codecs: m.Codecs,
	}
	for range m.Devices {
		w.Windows = append(w.Windows, wire.Window{Seq: 8, Offset: 1 << 20})
	}
	return w
}

func swallow(ctx context.Context, l transport.Listener) {
	if lane, err := l.Accept(ctx); err == nil {
		_, _ = io.Copy(io.Discard, lane)
		lane.Close()
	}
}

// TestRecvFromNewerVersion: the destination refuses the source, and waits on.
func TestRecvFromNewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	cmd := command(t, "mig-recv", "--json", "--listen", "unix:"+path, "--device", "d=sim:mtty")
	out := start(t, cmd)
	if err := hello(t.Context(), path); err != nil {
		t.Error(err)
	}
	events := bufio.NewScanner(out)
	contains(t, nextEvent(t, events, "refused"), `"code":"version","why":"the source speaks protocol versions 8 to 9, the destination 1 to 1","hints":["install the same release`)
	signalProcess(t, cmd, syscall.SIGTERM)
	contains(t, nextEvent(t, events, "done"), `"outcome":"aborted","exit":9`)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("%v, want exit 9", cmd.ProcessState)
	}
}

// hello is a source with only the versions 8 and 9.
func hello(ctx context.Context, path string) error {
	attempt := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	lane, err := dial(ctx, path, wire.LaneControl, attempt)
	if err != nil {
		return err
	}
	defer lane.Close()
	control := wire.NewControl(lane)
	if err := control.Send(offer(attempt, wire.Versions{Min: 8, Max: 9})); err != nil {
		return err
	}
	answer, err := control.Receive()
	if err != nil {
		return err
	}
	if d, ok := answer.(*wire.Declined); !ok || d.Code != transport.CodeVersion {
		return errors.New("the answer is " + answer.Type().String())
	}
	return nil
}

// offer is a HELLO with one unknown device.
func offer(a migration.Attempt, versions wire.Versions) *wire.Hello {
	return &wire.Hello{
		Attempt: a, Versions: versions, Journal: migration.NewJournalID(),
		Devices: []wire.DeviceOffer{{Name: "d", Flags: vfio.Features{}.MigrationFlags()}}, ChunkSize: 1 << 20, Lanes: 1, Codecs: []codec.ID{codec.IDRaw},
	}
}

// dial waits for the listener and sends the lane's kind.
func dial(ctx context.Context, path string, kind wire.LaneKind, a migration.Attempt) (transport.Lane, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		lane, err := (&transport.UnixDialer{Path: path}).Dial(ctx)
		if err == nil {
			return lane, wire.WritePreamble(lane, wire.Preamble{Kind: kind, Mig: a.Mig, Epoch: a.Epoch})
		}
		if !errors.Is(err, os.ErrNotExist) || time.Now().After(deadline) {
			return nil, err
		}
	}
}

// exits runs a program to its end and returns its stderr.
func exits(t *testing.T, want int, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("%v: exit %d (%v), want %d\n%s", cmd, got, err, want, &stderr)
	}
	return stderr.String()
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}
