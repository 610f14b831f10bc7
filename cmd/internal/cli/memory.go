package cli

import (
	"bufio"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/units"
)

// What a program needs beside the memory for its chunks.
const (
	outsideHeap  = 8 << 20 // its code, stacks and the broker
	leastHeap    = 16 << 20
	besideChunks = outsideHeap + leastHeap
)

// memoryLimit is the most memory that a process may have, and which limit that is.
type memoryLimit struct {
	bytes uint64
	by    string
}

// checkMemory refuses memory for chunks that this process cannot have. The kernel would kill
// it later, without a word, with the devices that it has opened.
func checkMemory(memory *input.Size, limit memoryLimit) error {
	most := limit.bytes - min(limit.bytes, besideChunks)
	if memory.Bytes <= most {
		return nil
	}
	return ui.Mistakef("give a smaller --memory, or more memory to this process", "--memory %s is more than this process can have: %s allows %s, and the program itself needs %s of that",
		memory, limit.by, units.FormatBytes(limit.bytes), units.FormatBytes(besideChunks))
}

// leastMemory is the narrowest of all limits of this process. root is that of the file system.
func leastMemory(root string) memoryLimit {
	least := memoryLimit{math.MaxInt, "the size of a pointer"}
	for _, limit := range append(groupLimits(root), hostLimit(),
		processLimit(unix.RLIMIT_AS, "RLIMIT_AS (ulimit -v)"), processLimit(unix.RLIMIT_DATA, "RLIMIT_DATA (ulimit -d)")) {
		if limit.bytes < least.bytes {
			least = limit
		}
	}
	return least
}

// hostLimit is all the memory of this host, free or not.
func hostLimit() memoryLimit {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return memoryLimit{bytes: math.MaxUint64}
	}
	return memoryLimit{uint64(info.Totalram) * uint64(info.Unit), "the memory of this host"} // 32 bits on some machines
}

// processLimit is a limit of getrlimit(2). RLIMIT_AS and RLIMIT_DATA count memory that is mapped,
// used or not.
func processLimit(resource int, name string) memoryLimit {
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return memoryLimit{bytes: math.MaxUint64}
	}
	return memoryLimit{limit.Cur, name}
}

// groupFile is the file of a control group that has the limit, by the type of its mount: of
// version 2 (cgroups(7)), and of version 1.
var groupFile = map[string]string{"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}

// groupLimits are the limits of the control groups of this process, and of those around them.
// What cannot be read is no limit.
func groupLimits(root string) (limits []memoryLimit) {
	paths := groupPaths(root)
	for _, m := range groupMounts(root) {
		path, ok := paths[m.kind]
		if !ok {
			continue
		}
		below, err := filepath.Rel(m.root, path)
		if err != nil || strings.HasPrefix(below, "..") { // the group is outside of the mounted hierarchy, as in some containers
			below = "."
		}
		for dir := filepath.Join(m.point, below); ; dir = filepath.Dir(dir) {
			if bytes, ok := readLimit(filepath.Join(root, dir, groupFile[m.kind])); ok {
				limits = append(limits, memoryLimit{bytes, filepath.Join(dir, groupFile[m.kind])})
			}
			if len(dir) <= len(m.point) {
				break
			}
		}
	}
	return limits
}

// groupPaths are the groups of this process, by the type of their mount. Those of version 1
// are the memory controller's.
func groupPaths(root string) map[string]string {
	paths := map[string]string{}
	eachLine(filepath.Join(root, "proc/self/cgroup"), func(line string) {
		parts := strings.SplitN(line, ":", 3)
		switch {
		case len(parts) < 3:
		case parts[1] == "":
			paths["cgroup2"] = parts[2]
		case strings.Contains(","+parts[1]+",", ",memory,"):
			paths["cgroup"] = parts[2]
		}
	})
	return paths
}

// groupMount is a mount of control groups: which part of them, and where.
type groupMount struct{ kind, root, point string }

// groupMounts reads proc_pid_mountinfo(5).
func groupMounts(root string) (mounts []groupMount) {
	eachLine(filepath.Join(root, "proc/self/mountinfo"), func(line string) {
		before, after, _ := strings.Cut(line, " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if len(where) < 5 || len(what) < 3 || groupFile[what[0]] == "" {
			return
		}
		if what[0] == "cgroup2" || strings.Contains(","+what[2]+",", ",memory,") {
			mounts = append(mounts, groupMount{what[0], where[3], where[4]})
		}
	})
	return mounts
}

func eachLine(path string, do func(line string)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		do(lines.Text())
	}
}

// readLimit reads a number of bytes. "max" is no limit, and so is what version 1 has for none.
func readLimit(path string) (uint64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil && n < math.MaxInt64/2
}

// How the garbage collector is set, unless the environment sets it.
//
// Chunks are outside the heap, and moving one allocates nothing. The garbage is that of the
// QUIC stack: some 30 MiB for each GiB, beside 3 MiB of live objects. At ten times the live
// heap, and at least 40 MiB, a cycle of the collector comes about once per GiB, and so hardly
// ever while the guest is paused, when it would take CPUs from the lanes. The limit is for a
// larger heap, of many devices or many small chunks: there a cycle comes earlier.
//
// A destination that waits for its source has the runtime's usual percentage: the TLS
// handshake of a stranger leaves some 40 KiB of garbage.
const (
	heapPercent = 1000
	heapUsual   = 100
	heapLimit   = 96 << 20
)

// limitHeap sets the limit for buffers of so many bytes, whose bookkeeping is in the heap. Where
// this process may have little memory, the heap gets what the buffers leave of it. This is for
// a program to do and not for a library, which is not alone.
func limitHeap(buffers uint64, all memoryLimit) {
	if os.Getenv("GOMEMLIMIT") == "" {
		left := all.bytes - min(all.bytes, buffers+outsideHeap)
		debug.SetMemoryLimit(int64(min(heapLimit+buffers/8, max(left, leastHeap))))
	}
}

// keepCollectorAway sets the percentage for a migration, or the usual one.
func keepCollectorAway(away bool) {
	percent := heapUsual
	if away {
		percent = heapPercent
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
