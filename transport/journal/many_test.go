//go:build !race

package journal

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
	"testing"
	"time"
)

// TestManyJournals: a start reads thousands of journals in little memory, whether they stay
// or go, and creates no more than that for the collector: programs have it run seldom.
func TestManyJournals(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	dir := manyJournals(t, time.Now().Add(-month))
	for _, keep := range []time.Duration{2 * month, month / 2} {
		clearHighWater(t)
		before := highWater(t)
		found, gone := lookAtAll(t, dir, time.Now().Add(-keep))
		grown := highWater(t) - before
		if found != many || gone != map[bool]int{true: 0, false: many}[keep > month] {
			t.Errorf("of %d journals %d were found and %d removed", many, found, gone)
		}
		if t.Logf("the resident memory grew by %d KiB", grown>>10); grown > 2<<20 {
			t.Errorf("the resident memory grew by %d bytes", grown)
		}
	}
}

// clearHighWater sets the high-water mark of this process's resident memory to what it has
// now (proc_pid_clear_refs(5), 5).
func clearHighWater(t testing.TB) {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// highWater is that mark, in bytes.
func highWater(t testing.TB) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := bytes.Cut(status, []byte("VmHWM:"))
	n, err := strconv.Atoi(string(bytes.Fields(line)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
