package migrate

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

// room is what an engine may take beside Options.Memory, in bytes.
const room = 64 << 20

// staysWithin checks, when the test ends, that the process has never had more
// than memory and room in RAM beyond what it has now.
func staysWithin(t testing.TB, memory int) {
	t.Helper()
	debug.FreeOSMemory()
	// "5": reset the peak resident set size (proc_pid_clear_refs(5)).
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skip("the peak of the memory cannot be measured: ", err)
	}
	before := kilobytes(t, "VmRSS:")
	t.Cleanup(func() {
		if grown := (kilobytes(t, "VmHWM:") - before) << 10; grown > memory+room {
			t.Errorf("the process grew by %d MiB, may by %d", grown>>20, (memory+room)>>20)
		}
	})
}

// kilobytes reads a row of /proc/self/status.
func kilobytes(t testing.TB, row string) (n int) {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), row); ok {
			if _, err := fmt.Sscan(text, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("/proc/self/status has no row %s", row)
	return 0
}
