package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// allowCores raises the limit as far as it may.
func allowCores(t *testing.T) {
	var core unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &core)
	core.Cur = core.Max
	if err := errors.Join(err, unix.Setrlimit(unix.RLIMIT_CORE, &core)); err != nil {
		t.Fatal(err)
	}
}

// TestPanicAborts runs itself as a program that panics beside its main
// goroutine.
func TestPanicAborts(t *testing.T) {
	const told = "MIGPIPE_TEST_PANIC"
	if os.Getenv(told) != "" {
		allowCores(t)
		abortOnPanic()
		// No limit of this process tells what a piped core_pattern does.
		if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); dumpable != 0 || err != nil {
			t.Fatalf("dumpable: %d, %v", dumpable, err)
		}
		go panic("as an engine might")
		select {} // the panic ends it
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPanicAborts$")
	cmd.Env = append(os.Environ(), told+"=1")
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signal() != syscall.SIGABRT || status.CoreDump() || !strings.Contains(string(out), "as an engine might") {
		t.Errorf("ended with %v, want SIGABRT and no core:\n%s", err, out)
	}
	if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
