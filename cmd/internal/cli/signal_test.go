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
	stderr := captureStderr(t)
	again := make(chan struct{}, 1)
	ctx, stop := cancelOnSignal("mig-send", os.Stderr, func() string { again <- struct{}{}; return "waiting" })
	signalSelf(t, syscall.SIGTERM)
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) || err.Error() != "cancelled: terminated" {
		t.Errorf("cause %v", err)
	}
	signalSelf(t, syscall.SIGINT)
	<-again
	waitFor(t, func() bool { return strings.Contains(stderr(), "mig-send: still cancelling: waiting\n") })

	stop() // from here on a signal is neither answered nor deadly
	before := stderr()
	signalSelf(t, syscall.SIGINT)
	time.Sleep(50 * time.Millisecond)
	if after := stderr(); after != before {
		t.Errorf("after the end it says %q", after[len(before):])
	}
}

// captureStderr sends what is said on stderr during the test to the function
// that it gives.
func captureStderr(t *testing.T) func() string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stderr
	os.Stderr = f
	t.Cleanup(func() { os.Stderr = before; f.Close() })
	return func() string {
		said, err := os.ReadFile(f.Name())
		if err != nil {
			t.Error(err)
		}
		return string(said)
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
