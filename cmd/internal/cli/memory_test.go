package cli

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/cmd/internal/input"
)

// TestGroupLimits: the narrowest limit of the groups of this process counts, wherever it is.
func TestGroupLimits(t *testing.T) {
	const v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
	const v1 = "31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
	for name, c := range map[string]struct {
		groups, mounts string
		files          map[string]string
		want           uint64 // 0 for no limit
		by             string
	}{
		"version 2":              {"0::/a/b", v2, map[string]string{"sys/fs/cgroup/a/b/memory.max": "268435456"}, 256 << 20, "/sys/fs/cgroup/a/b/memory.max"},
		"of a group around it":   {"0::/a/b", v2, map[string]string{"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/memory.max": "1000"}, 1000, "/sys/fs/cgroup/a/memory.max"},
		"none":                   {"0::/a", v2, map[string]string{"sys/fs/cgroup/a/memory.max": "max"}, 0, ""},
		"cannot be read":         {"0::/a", v2, nil, 0, ""},
		"in a container":         {"0::/", v2, map[string]string{"sys/fs/cgroup/memory.max": "4096"}, 4096, "/sys/fs/cgroup/memory.max"},
		"version 1":              {"4:cpu,memory:/x\n0::/", v1, map[string]string{"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "77"}, 77, "/sys/fs/cgroup/memory/x/memory.limit_in_bytes"},
		"version 1 has none":     {"4:memory:/x", v1, map[string]string{"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712"}, 0, ""},
		"container, version 1":   {"4:memory:/docker/7", strings.Replace(v1, " / ", " /docker/7 ", 1), map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "5"}, 5, "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
		"mounted from elsewhere": {"0::/../other", v2, map[string]string{"sys/fs/cgroup/memory.max": "6"}, 6, "/sys/fs/cgroup/memory.max"},
	} {
		root := t.TempDir()
		c.files = merged(c.files, map[string]string{"proc/self/cgroup": c.groups, "proc/self/mountinfo": c.mounts})
		for path, text := range c.files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := memoryLimit{}
		for _, l := range groupLimits(root) {
			if got.bytes == 0 || l.bytes < got.bytes {
				got = l
			}
		}
		if got.bytes != c.want || got.by != c.by {
			t.Errorf("%s: %+v, want %d by %q", name, got, c.want, c.by)
		}
	}
}

func merged(a, b map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range []map[string]string{a, b} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func TestCheckMemory(t *testing.T) {
	limit := memoryLimit{256 << 20, "/sys/fs/cgroup/memory.max"}
	for memory, want := range map[uint64]string{
		1 << 30:       "--memory 1GiB is more than this process can have: /sys/fs/cgroup/memory.max allows 256MiB, and the program itself needs 24MiB of that",
		232 << 20:     "",
		232<<20 + 1:   "is more than this process can have",
		math.MaxInt64: "is more than this process can have",
	} {
		c := &common{memory: input.Size{Bytes: memory}}
		err := checkMemory(&c.memory, limit)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d bytes: %v", memory, err)
		}
	}
	c := &common{memory: input.Size{Bytes: hostLimit().bytes}}
	if err := checkMemory(&c.memory, leastMemory("/")); err == nil || !strings.Contains(err.Error(), "can have") {
		t.Errorf("all the memory of this host: %v", err)
	}
}

// TestCollector: what the environment says of the collector is left alone, each for
// itself.
func TestCollector(t *testing.T) {
	const ours, limit = heapPercent, heapLimit + 4<<20
	for _, c := range []struct {
		gogc, gomemlimit string
		percent          int
		limit            int64
	}{
		{"", "", ours, limit},
		{"100", "", 100, limit},
		{"off", "", 100, limit},
		{"", "1GiB", ours, math.MaxInt64},
		{"100", "off", 100, math.MaxInt64},
	} {
		t.Setenv("GOGC", c.gogc)
		t.Setenv("GOMEMLIMIT", c.gomemlimit)
		percent := debug.SetGCPercent(100) // stands for what the runtime has made of the environment
		most := debug.SetMemoryLimit(math.MaxInt64)
		limitHeap(32<<20, memoryLimit{bytes: math.MaxUint64})
		keepCollectorAway(true)
		gotLimit, gotPercent := debug.SetMemoryLimit(most), debug.SetGCPercent(percent)
		if gotPercent != c.percent || gotLimit != c.limit {
			t.Errorf("GOGC=%s GOMEMLIMIT=%s: %d%%, %d bytes, want %d%%, %d", c.gogc, c.gomemlimit, gotPercent, gotLimit, c.percent, c.limit)
		}
	}
}

// TestHeapFitsTheLimit: a heap gets what a limit leaves, the least that a program needs at least.
func TestHeapFitsTheLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for _, c := range []struct {
		buffers, all uint64
		want         int64
	}{
		{32 << 20, 1 << 40, heapLimit + 4<<20},
		{32 << 20, 80 << 20, 40 << 20},
		{32 << 20, 56 << 20, leastHeap},
		{32 << 20, 1 << 20, leastHeap},
	} {
		limitHeap(c.buffers, memoryLimit{bytes: c.all})
		if got := debug.SetMemoryLimit(-1); got != c.want {
			t.Errorf("%d bytes of buffers in %d: the heap's limit is %d, want %d", c.buffers, c.all, got, c.want)
		}
	}
}
