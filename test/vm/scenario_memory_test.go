package vm

import (
	"bytes"
	"cmp"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var memoryFile = flag.String("memory", "", "where scenario memory leaves its dump, an absolute path")

// What is dumped begins with the kernel, where it lies without KASLR. The files of the
// initramfs follow.
const (
	memoryFrom = 16 << 20
	memorySize = 64 << 20
)

// testMemory dumps memory that is in use, which the benchmarks move too.
func testMemory(t *testing.T, p pair) {
	to := cmp.Or(*memoryFile, filepath.Join(t.TempDir(), "memory.bin"))
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := p.source.openMonitor(t).saveMemory(memoryFrom, memorySize, to); err != nil {
		t.Fatal(err)
	}
	dump, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	empty := 0
	for at := 0; at < len(dump); at += page {
		if bytes.Equal(dump[at:at+page], make([]byte, page)) {
			empty++
		}
	}
	t.Logf("%d MiB, %d %% of the pages are zero", len(dump)>>20, 100*empty*page/len(dump))
	if empty > len(dump)/page/2 || !bytes.Contains(dump, []byte("Linux version ")) {
		t.Error("this is not where the guest's kernel is")
	}
}
