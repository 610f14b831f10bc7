package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/bench/downtime/model"
	"github.com/migpipe/migpipe/transport/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The whole command runs, with devices that need little time.
func TestCommand(t *testing.T) {
	for _, carrier := range []string{"pipe", "quic"} {
		t.Run(carrier, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			var out bytes.Buffer
			err := run(t.Context(), []string{"--devices", "2", "--rounds", "2", "--stops", "2", "--scale", "0.02", "--carrier", carrier, "--out", dir}, &out, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append(names(2), heads[0], heads[1], journalsHead, "command: bin/downtime --devices 2", "cpu: ", "date: ") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the output has no %q:\n%s", want, out.String())
				}
			}
			for name, magic := range map[string]string{"downtime.svg": "<?xml", "downtime.png": "\x89PNG", "downtime.json": "{", "downtime.txt": "command: "} {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || !bytes.HasPrefix(b, []byte(magic)) {
					t.Errorf("%s: %v, begins with %.8q", name, err, b)
				}
			}
			var r result
			b, _ := os.ReadFile(filepath.Join(dir, "downtime.json"))
			if err := json.Unmarshal(b, &r); err != nil || len(r.Comparisons) != 2 {
				t.Fatalf("%v, %+v", err, r)
			}
			for _, c := range r.Comparisons {
				if len(c.Strategies) != 4 || len(c.Strategies[3].Measured) != 2 {
					t.Errorf("%+v", c)
				}
			}
			if j := r.Journals; j.Skipped != "" {
				t.Logf("SKIP journals: %s", j.Skipped)
			} else if len(j.Without) != 2 || len(j.With) != 2 || slices.Min(j.Without) <= 0 || slices.Min(j.With) <= 0 {
				t.Errorf("%+v", j)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "journals-*")); err != nil || left != nil {
				t.Errorf("%v, %v: the journals were left", left, err)
			}
		})
	}
}

// heads are the heads of the tables of a default run.
var heads = []string{(&scenario{Share: 8}).head(), (&scenario{Share: 1}).head()}

func names(devices int) (list []string) {
	for _, s := range model.Strategies(devices) {
		list = append(list, s.Name)
	}
	return list
}

// On a clock that computing does not move, real migrations last as long as the model
// predicts, and ours is the shortest.
func TestModelIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scenario{Devices: 4, Rounds: 1, Share: 32, Scale: 1, Carrier: "pipe"}
		c, err := s.compare(t.Context(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		ours := c.Strategies[3].median().Downtime
		for i, o := range c.Strategies {
			got, want := o.median().Downtime, o.Model.Downtime
			if off := (got - want).Abs(); off > want/10 {
				t.Errorf("%s took %v, the model predicts %v", o.Name, got, want)
			}
			if i < 3 && ours >= got {
				t.Errorf("%s took %v, ours %v", o.Name, got, ours)
			}
		}
	})
}

func TestRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--devices 0":    "--devices is 0",
		"--rounds 0":     "--rounds is 0",
		"--shares 8,0":   `--shares has "0"`,
		"--shares much":  `--shares has "much"`,
		"--stops 0":      "--stops is 0",
		"--scale 0":      "--scale is 0",
		"--scale NaN":    "--scale is NaN",
		"--carrier tcp":  `--carrier is "tcp"`,
		"--nonsense":     "nonsense",
		"more":           `unknown argument "more"`,
		"--devices 9999": "must be 1 to 64",
	} {
		var out bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), &out, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// A directory in RAM cannot show the cost of a disk.
func TestVolatile(t *testing.T) {
	const memory = "/dev/shm"
	if journal.Check(memory, false) == nil {
		t.Skip(memory + " is no memory here")
	}
	s := scenario{Stops: 1, Carrier: "pipe"}
	j, err := s.stops(t.Context(), memory, io.Discard)
	if err != nil || !strings.Contains(j.table(), "SKIP: ") {
		t.Errorf("%v, %+v", err, j)
	}
}

// The README's tables are this program's output, and support the README's claims.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Downtime\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if !ok || !strings.Contains(section, "\ncommand: bin/downtime\n") {
		t.Fatal("README.md does not say how this program was called")
	}
	for _, head := range heads {
		checkStrategies(t, rows(t, section, head))
	}
	spread := regexp.MustCompile(` +\d+\.\d\d \[-?\d+\.\d\d\.\.\d+\.\d\d\]$`)
	for i, row := range rows(t, section, journalsHead)[:len(journalRows)] {
		if !strings.HasPrefix(row, journalRows[i]) || !spread.MatchString(row) {
			t.Errorf("row %d is %q, want one of %q", i, row, journalRows[i])
		}
	}
}

// rows are the lines below a table's head.
func rows(t *testing.T, section, head string) []string {
	t.Helper()
	_, table, ok := strings.Cut(section, "\n"+head+"\n")
	if !ok {
		t.Fatalf("README.md has no table with the head %q", head)
	}
	return strings.Split(table, "\n")
}

func checkStrategies(t *testing.T, rows []string) {
	t.Helper()
	columns := regexp.MustCompile(` +(\d\.\d{3} s)  (\d\.\d{3} s) \[(\d\.\d{3} s)\.\.(\d\.\d{3} s)\] +\d\.\d{3} s$`)
	var found [][]string
	for i, name := range names(4) {
		m := columns.FindStringSubmatch(rows[i])
		if !strings.HasPrefix(rows[i], name) || m == nil {
			t.Fatalf("row %d is %q, want one of %q", i, rows[i], name)
		}
		found = append(found, m[1:3])
	}
	for _, theirs := range found[:3] {
		if found[3][0] >= theirs[0] || found[3][1] >= theirs[1] {
			t.Errorf("ours takes %v, another %v", found[3], theirs)
		}
	}
}

func TestMedian(t *testing.T) {
	var o outcome
	for _, n := range []time.Duration{5, 1, 9, 3} {
		o.Measured = append(o.Measured, model.Result{Downtime: n, Total: 10 * n})
	}
	if got := o.median().Downtime; got != 3 {
		t.Errorf("median %d, want 3", got)
	}
	if got := o.medianTotal(); got != 30 {
		t.Errorf("median of totals %d, want 30", got)
	}
}
