package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
)

// The tests here play the peer themselves: one of a future release, or one that
// is lost at the worst moment.

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

// decline is a destination that speaks no version in common.
func decline(ctx context.Context, l transport.Listener, text string) error {
	lane, err := l.Accept(ctx)
	if err != nil {
		return err
	}
	defer lane.Close()
	if _, err := transport.ReadPreamble(lane); err != nil {
		return err
	}
	control := transport.NewControl(lane)
	hello, err := control.Receive()
	if err != nil {
		return err
	}
	err = control.Send(&transport.Declined{Attempt: *hello.About(), Code: transport.CodeVersion, Text: text})
	_, _ = control.Receive() // until the source hangs up
	return err
}

// TestInDoubt loses the destination when it was told COMMIT: it may or may not
// have taken the devices over.
func TestInDoubt(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	if err := os.WriteFile(from, []byte("state"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := transport.ListenUnix(filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- vanish(t.Context(), l) }() // COMMIT ends it
	cmd := exec.Command(filepath.Join(bin, "mig-send"), "--json", "--to", "unix:"+l.Addr().String(), "--device", "d=file:"+from)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr := exits(t, 11, cmd)
	contains(t, stderr, "hint: do NOT start the guest here", "hint: ask the destination first")
	contains(t, stdout.String(), `"outcome":"in-doubt"`, `"exit":11`, `"state":"STOP_COPY"`)
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// vanish is a destination that takes a stream and hangs up on COMMIT.
func vanish(ctx context.Context, l transport.Listener) error {
	lane, err := l.Accept(ctx)
	if err != nil {
		return err
	}
	defer lane.Close()
	if _, err := transport.ReadPreamble(lane); err != nil {
		return err
	}
	control := transport.NewControl(lane)
	journal := transport.NewJournalID()
	for {
		m, err := control.Receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *transport.Hello:
			err = control.Send(&transport.Welcome{
				Attempt: m.Attempt, Version: transport.Version, Journal: journal, ChunkSize: m.ChunkSize,
				Lanes: 1, Codecs: m.Codecs, Windows: []transport.Window{{Seq: 8, Offset: 1 << 20}},
			})
			go swallow(ctx, l) // the source's hanging up ends it
		case *transport.End:
			err = control.Send(&transport.Ready{Attempt: m.Attempt, Journal: journal, Digest: transport.SetDigest([]transport.StreamDigest{m.Digest})})
		case *transport.Commit:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func swallow(ctx context.Context, l transport.Listener) {
	if lane, err := l.Accept(ctx); err == nil {
		_, _ = io.Copy(io.Discard, lane)
		lane.Close()
	}
}

func TestRecvFromNewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	said := make(chan error, 1)
	go func() { said <- hello(t.Context(), path) }() // the answer ends it
	stderr := exits(t, 7, exec.Command(filepath.Join(bin, "mig-recv"), "--listen", "unix:"+path, "--device", "d=sim:mtty"))
	contains(t, stderr, "error: the source speaks protocol versions 8 to 9, the destination 1 to 1", "hint: install the same release")
	if err := <-said; err != nil {
		t.Error(err)
	}
}

// hello is a source that speaks only versions 8 and 9.
func hello(ctx context.Context, path string) error {
	lane, err := dial(ctx, path)
	if err != nil {
		return err
	}
	defer lane.Close()
	attempt := transport.Attempt{Mig: transport.NewMigID(), Epoch: 1}
	if err := transport.WritePreamble(lane, transport.Preamble{Kind: transport.LaneControl, Mig: attempt.Mig, Epoch: attempt.Epoch}); err != nil {
		return err
	}
	control := transport.NewControl(lane)
	err = control.Send(&transport.Hello{
		Attempt: attempt, Versions: transport.Versions{Min: 8, Max: 9}, Journal: transport.NewJournalID(),
		Devices: []transport.DeviceOffer{{Name: "d", Driver: "mtty"}}, ChunkSize: 1 << 20, Lanes: 1, Codecs: []codec.ID{codec.IDRaw},
	})
	if err != nil {
		return err
	}
	answer, err := control.Receive()
	if err != nil {
		return err
	}
	if d, ok := answer.(*transport.Declined); !ok || d.Code != transport.CodeVersion {
		return errors.New("the answer is " + answer.Type().String())
	}
	return nil
}

// dial waits for the listener.
func dial(ctx context.Context, path string) (transport.Lane, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		lane, err := (&transport.UnixDialer{Path: path}).Dial(ctx)
		if err == nil || !errors.Is(err, os.ErrNotExist) || time.Now().After(deadline) {
			return lane, err
		}
	}
}

// exits runs a program to its end and gives its stderr.
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
