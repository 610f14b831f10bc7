package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCancelOnSignal(t *testing.T) {
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer func(f *os.File) { os.Stderr = f }(os.Stderr)
	os.Stderr = stderr
	defer stderr.Close()

	ctx, stop := cancelOnSignal("mig-send")
	signalSelf(t, syscall.SIGTERM)
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) || err.Error() != "cancelled: terminated" {
		t.Errorf("cause %v", err)
	}
	signalSelf(t, syscall.SIGINT)
	waitFor(t, func() bool {
		said, _ := os.ReadFile(stderr.Name())
		return strings.Contains(string(said), "mig-send: still cancelling")
	})

	stop() // from here on a signal is neither answered nor deadly
	before, _ := os.ReadFile(stderr.Name())
	signalSelf(t, syscall.SIGINT)
	time.Sleep(50 * time.Millisecond)
	if after, _ := os.ReadFile(stderr.Name()); string(after) != string(before) {
		t.Errorf("after the end it says %q", after[len(before):])
	}
}

func signalSelf(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, happened func() bool) {
	t.Helper()
	for range 1000 {
		if happened() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen in 10 s")
}
