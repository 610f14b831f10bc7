package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/bench/internal/command"
	"github.com/migpipe/migpipe/bench/internal/record"
	"github.com/migpipe/migpipe/transport"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "socat" {
		if err := standIn(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "socat's stand-in:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// The whole command runs every way once, and its files exist and are correct.
func TestCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--rounds", "1", "--size", "4MiB", "--out", dir}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var r result
	if err := json.Unmarshal(read("results.json"), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Ways) != len(ways(runtime.NumCPU())) || len(r.Ratios) != len(compared(runtime.NumCPU())) || r.Host.Kernel == "" || r.Drain <= 0 {
		t.Errorf("results.json has %d ways, %d ratios, host %+v, drain %v", len(r.Ways), len(r.Ratios), r.Host, r.Drain)
	}
	for _, o := range r.Ways {
		if o.Group != groupLink && !strings.Contains(out.String(), o.Name) {
			t.Errorf("the table has no %q", o.Name)
		}
		if o.Skipped != "" {
			t.Logf("SKIP %s: %s", o.Name, o.Skipped)
			continue
		}
		s := o.Samples[0]
		if len(o.Samples) != 1 || s.Rate <= 0 || s.CPU < 0 || s.Allocs <= 0 || s.Peak < 1<<20 || len(o.Memory) < 2 {
			t.Errorf("%s: %+v, memory %v", o.Name, o.Samples, o.Memory)
		}
	}
	checkBenchmarks(t, string(read("bench.txt")))
	checkPage(t, read("report.html"))
	if names, _ := os.ReadDir(dir); len(names) != 3 {
		t.Errorf("%v: there should be three files", names)
	}
}

func TestRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--rounds 0":    "--rounds is 0",
		"--size 1KiB":   "--size is 1024 bytes",
		"--size much":   `"much" is not a size`,
		"--only carrot": `--only "carrot" leaves no way`,
		"more":          `unknown argument "more"`,
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// If a directory cannot be made, the error has a hint for the caller.
func TestCannotSave(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"--rounds", "1", "--size", "1MiB", "--only", "TCP", "--out", file}, io.Discard, io.Discard)
	if m, ok := err.(*command.Mistake); !ok || m.Hint == "" {
		t.Errorf("%v, want a hint", err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"7": 7, "3KiB": 3 << 10, "256MiB": 256 << 20, "4GiB": 4 << 30} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestOnly(t *testing.T) {
	if got := only(ways(2), "TCP,conns=2"); len(got) != 4 {
		t.Errorf("%d ways, want TCP twice, quic-go and crypto/tls", len(got))
	}
}

// An existing dump of memory is moved whole. Without one the rows name the way to make it.
func TestMemory(t *testing.T) {
	t.Chdir(t.TempDir())
	moved := func() string {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"--rounds", "1", "--size", "1MiB", "--only", "memory"}, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const rows, skip = 5, "SKIP: no bench/out/memory.bin: make bench-memory"
	for size, skipped := range map[int]int{0: rows, contentSize - 1: rows, contentSize + 1: 0} {
		if err := record.File(memoryFile, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if table := moved(); strings.Count(table, ", memory, ") != rows || strings.Count(table, skip) != skipped {
			t.Errorf("with %d bytes:\n%s", size, table)
		}
	}
	if err := os.Remove(memoryFile); err != nil {
		t.Fatal(err)
	}
	if table := moved(); strings.Count(table, skip) != rows {
		t.Errorf("without a dump:\n%s", table)
	}
}

// A host may have more cores than a migration has lanes for.
func TestLanesAreFew(t *testing.T) {
	for _, w := range wides(256) {
		if lanes := w.pipeline().lanes; lanes > transport.MaxLanes || !strings.Contains(w.bare().Name, fmt.Sprintf("%d conn", lanes)) {
			t.Errorf("%d lanes beside %s", lanes, w.bare().Name)
		}
	}
}

// Names in benchmarks are unique: benchstat counts lines of one name as rounds of one way.
func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range ways(64) {
		if seen[w.Name] || seen[w.Bench] {
			t.Errorf("%s, %s is there twice", w.Name, w.Bench)
		}
		seen[w.Name], seen[w.Bench] = true, true
	}
	for _, pair := range compared(64) {
		if !seen[pair[0]] || !seen[pair[1]] {
			t.Errorf("%q are not both ways", pair)
		}
	}
}

// The README's tables have this program's head, every way and every ratio, also those of a
// host with many cores. They name their host.
func TestReadme(t *testing.T) {
	const manyCores = 16
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Throughput\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if !ok || !strings.Contains(section, tableHead) || !strings.Contains(section, ratioHead) {
		t.Fatal("README.md has no table with this program's head")
	}
	want := strings.Split(record.ThisHost("bin/throughput").Lines(), "\n")[:1]
	want = append(want, "\n"+adaptiveHead+"\n")
	for _, content := range kinds {
		for i := range links {
			want = append(want, "\n"+links[i].of(content)+"  ")
		}
	}
	for _, w := range ways(manyCores) {
		if w.Group != groupLink {
			want = append(want, "\n"+w.Name+"  ")
		}
	}
	for _, pair := range compared(manyCores) {
		want = append(want, "\n"+pair[0]+" / "+pair[1]+"  ")
	}
	for _, line := range want {
		if !strings.Contains(section, line) {
			t.Errorf("README.md has no %q", line)
		}
	}
}
