package cli

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPanicAborts runs itself as a program that panics beside its main
// goroutine.
func TestPanicAborts(t *testing.T) {
	const told = "MIGPIPE_TEST_PANIC"
	if os.Getenv(told) != "" {
		abortOnPanic()
		var core unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Max > 1 {
			t.Fatalf("cores may have %d bytes: %v", core.Max, err)
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
