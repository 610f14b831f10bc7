package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestKeyHints gives each key that cannot be used its own way out.
func TestKeyHints(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		mode os.FileMode
		want string
	}{"open": {0o644, "chmod 600 " + filepath.Join(dir, "open")}, "junk": {0o600, "remove it"}} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("junk"), 0o600), os.Chmod(path, tt.mode)); err != nil {
			t.Fatal(err)
		}
		checkKeyHint(t, path, tt.want)
	}
	checkKeyHint(t, dir, "--identity")
}

func checkKeyHint(t *testing.T, path, want string) {
	t.Helper()
	_, err := input.LoadIdentity(path, "")
	got := strings.Join(ui.Scene{}.Hints(migration.Aborted, err), "\n")
	if code, _ := ui.CodeOf(err); code != transport.CodeAuth || !strings.Contains(got, want) {
		t.Errorf("%v: hint %q, want %q", err, got, want)
	}
}

func TestMemoryError(t *testing.T) {
	c := &common{memory: input.Size{Bytes: 1 << 40}}
	arena := fmt.Errorf("transport: map: %w", syscall.ENOMEM)
	for _, err := range []error{arena, &transport.Fault{Code: transport.CodeInternal, Err: arena}} {
		if m, ok := c.memoryError(err).(*ui.Mistake); !ok || !strings.Contains(m.Text, "--memory 1TiB: map") {
			t.Errorf("%v became %v", err, c.memoryError(err))
		}
	}
	for _, err := range []error{nil, errors.New("x"), ui.DeviceFault("d", syscall.ENOMEM), &transport.Fault{Remote: true, Err: arena}} {
		if got := c.memoryError(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// TestHookHint: a hook that has failed can be run by hand.
func TestHookHint(t *testing.T) {
	err := &transport.Fault{Code: transport.CodeStart, Err: &hookError{errors.New("x"), "accept", "./hook"}}
	if got := strings.Join(ui.Scene{}.Hints(migration.Aborted, err), "\n"); !strings.Contains(got, "run ./hook by hand, with MIGPIPE_EVENT=accept") {
		t.Errorf("hint %q", got)
	}
}
