package cli

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestEveryThreadIsConfined: Landlock is a thread's, and takes no_new_privs, which
// the kernel shows of every thread.
func TestEveryThreadIsConfined(t *testing.T) {
	if !landlocked() {
		t.Skip("SKIP: the kernel has no Landlock")
	}
	cmd := command(t, "mig-recv", "--json", "--listen", "unix:"+filepath.Join(t.TempDir(), "sock"), "--device", "d=sim:mtty")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	nextEvent(t, bufio.NewScanner(out), "sandbox")
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %q, %v", threads, err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "NoNewPrivs:\t1\n") {
			t.Errorf("%s may gain privileges:\n%s", thread, text)
		}
	}
	signalProcess(t, cmd, syscall.SIGTERM)
	cmd.Wait()
}
