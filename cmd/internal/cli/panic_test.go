package cli

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

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
