package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collected is the extra memory that a longer state may need. The first collection of the
// heap is at 40 MiB, which 1 GiB does not fill, and the heap grows during it. Without any
// collection, 3 GiB more of noise would need some 90 MiB more.
const collected = 56 << 20

// The whole command runs, with short states: a longer state needs no more memory than
// a short one.
func TestCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("moves gigabytes: not with -short")
	}
	dir := filepath.Join(t.TempDir(), "new")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--rounds", "1", "--most", "4", "--out", dir}, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	for name, magic := range map[string]string{"footprint.svg": "<?xml", "footprint.png": "\x89PNG", "footprint.txt": "command: bin/footprint --rounds 1"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.HasPrefix(b, []byte(magic)) {
			t.Errorf("%s: %v, begins with %.8q", name, err, b)
		}
	}
	var r result
	b, _ := os.ReadFile(filepath.Join(dir, "footprint.json"))
	if err := json.Unmarshal(b, &r); err != nil || len(r.States) != 4 {
		t.Fatalf("%v: %s", err, b)
	}
	for i := 0; i < len(r.States); i += 2 {
		small, large := r.States[i], r.States[i+1]
		checkFlat(t, large.Name+", mig-send", small.Send, large.Send)
		checkFlat(t, large.Name+", mig-recv", small.Recv, large.Recv)
	}
}

func checkFlat(t *testing.T, name string, small, large program) {
	t.Helper()
	if len(small.Peaks) != 1 || len(large.Peaks) != 1 || len(large.Memory) < 2 {
		t.Fatalf("%s: %+v and %+v", name, small, large)
	}
	if large.Peaks[0] > small.Peaks[0]+collected {
		t.Errorf("%s: %.0f bytes were needed, and %.0f for the short state", name, large.Peaks[0], small.Peaks[0])
	}
	for _, s := range large.Memory {
		if float64(s.Bytes) > large.Peaks[0]+collected/10 {
			t.Errorf("%s: %d bytes were seen, and %.0f were the most", name, s.Bytes, large.Peaks[0])
		}
	}
}

// The command does not wait for a program that prints nothing, or no address.
func TestListening(t *testing.T) {
	for said, want := range map[string]string{
		"{\"address\":\"127.0.0.1:7\"}\nand more": "127.0.0.1:7", "": "", "{}\n": "", "nonsense\n": "",
	} {
		if got, err := listening(strings.NewReader(said)); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", said, got, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--rounds 0": "--rounds is 0",
		"--most 1":   "--most is 1",
		"--nonsense": "nonsense",
		"more":       `unknown argument "more"`,
	} {
		if err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// The README's table is this program's output.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Memory\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, table, ok := strings.Cut(section, "\n"+tableHead+"\n")
	if !ok || !strings.Contains(section, "\ncommand: bin/footprint\n") {
		t.Fatal("README.md has no table with this program's head, or does not say how it was called")
	}
	rows := strings.Split(table, "\n")
	columns := regexp.MustCompile(`^ +\d+( +\d+ \[\d+\.\.\d+\]){2}$`)
	for i, s := range states(100, 3) {
		figures, ok := strings.CutPrefix(rows[i], s.String())
		if !ok || !columns.MatchString(figures) {
			t.Errorf("row %d is %q, want one of %v", i, rows[i], s)
		}
	}
}
