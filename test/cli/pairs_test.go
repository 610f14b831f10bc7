package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// factor is an option of a command line that has several settings.
type factor struct {
	name   string
	values []setting
}

// setting is one setting of a factor: the arguments that it adds for the two programs. DIR is
// the directory of the combination.
type setting struct{ name, send, recv string }

// The factors, whose first value is the default.
var factors = []factor{
	{"run", []setting{{name: "migration"}, {"dry", "--dry-run", ""}}},
	{"device", []setting{
		{"mtty", "--device a=sim:mtty", "--device a=sim:mtty"},
		{"pre-copy", "--device a=sim:mlx5?size=256KiB&dirty=1MiB/s", "--device a=sim:mlx5"},
		{"two", "--device a=sim:mlx5?size=128KiB --device b=sim:qat", "--device b=sim:qat --device a=sim:mlx5"},
		{"file", "--device a=file:DIR/in", "--device a=file:DIR/out"},
		{"kept", "--device a=sim:mtty?keep=DIR/from", "--device a=sim:mtty?keep=DIR/to"},
	}},
	{"mig-send's view", []setting{{name: "lines"}, {"json", "--json", ""}, {"quiet", "--quiet", ""}}},
	{"mig-recv's view", []setting{{name: "lines"}, {"json", "", "--json"}, {"quiet", "", "--quiet"}}},
	{"mig-send's commit", []setting{{name: "auto"}, {"external", "--commit external", ""}}},
	{"mig-recv's commit", []setting{{name: "auto"}, {"external", "", "--commit external"}}},
	{"witness", []setting{{name: "none"},
		{"dir", "--in-doubt witness --witness dir:DIR", "--in-doubt witness --witness dir:DIR"},
		{"exec", "--in-doubt witness --witness exec:DIR/ask", "--in-doubt witness --witness exec:DIR/ask"}}},
	{"state", []setting{{name: "none"}, {"dir", "--state-dir DIR/here --volatile-state", "--state-dir DIR/there --volatile-state --expire-state-after 1h"}}},
	{"past", []setting{{name: "new"}, {"continue", "--continue", "--continue"}}},
	{"hooks", []setting{{name: "none"}, {"all", "--on-commit DIR/hook --on-revert DIR/hook", "--on-accept DIR/hook"}}},
	{"sandbox", []setting{{name: "yes"}, {"no", "--no-sandbox", "--no-sandbox"}}},
	{"codec", []setting{{name: "auto"}, {"raw", "--codec raw", ""}, {"s2", "--codec s2", ""}, {"zstd", "--codec zstd", ""}}},
	{"lanes", []setting{{name: "default"}, {"1", "--lanes 1", ""}, {"5", "--lanes 5", ""}}},
	{"memory", []setting{{name: "default"}, {"little", "--memory 1MiB --chunk-size 16KiB", "--memory 512KiB --chunk-size 8KiB --max-state 64MiB"}}},
	{"path", []setting{{name: "full"}, {"shared", "--max-bandwidth 64MiB/s --priority a=3", ""}}},
	{"on-limit", []setting{{name: "refuse"}, {"continue", "--on-limit continue", ""}, {"force", "--on-limit force", ""}}},
	{"limits", []setting{{name: "default"},
		{"given", "--downtime-target 5s --resume-after 20s --max-precopy 30s --max-rounds 9 --abort-after 1m --ask-back-after 9s --doubt-for 30s --connect-for 9s",
			"--warn-ready-after 20s --discard-ready-after 30s --reconnect-for 30s --stalled-after 20s --lost-after 3s"}}},
	{"metrics", []setting{{name: "none"}, {"unix", "--metrics unix:DIR/sent", "--metrics unix:DIR/received"}}},
}

// excluded are the contradictory settings, by factor: the programs refuse them.
var excluded = [][2][2]string{
	{{"mig-send's commit", "external"}, {"mig-send's view", "lines"}},
	{{"mig-send's commit", "external"}, {"mig-send's view", "quiet"}},
	{{"mig-recv's commit", "external"}, {"mig-recv's view", "lines"}},
	{{"mig-recv's commit", "external"}, {"mig-recv's view", "quiet"}},
	{{"past", "continue"}, {"state", "none"}},
}

func (c choice) names() [2]string {
	return [2]string{factors[c.factor].name, factors[c.factor].values[c.value].name}
}

func isExcluded(p pair) bool {
	a, b := p[0].names(), p[1].names()
	return slices.Contains(excluded, [2][2]string{a, b}) || slices.Contains(excluded, [2][2]string{b, a})
}

// shows: a dry run does not show how settings work together in a migration.
func shows(row []int, p pair) bool {
	const run, dry = 0, 1
	return row[run] != dry || p[0] == choice{run, dry}
}

// TestPairs runs both programs with combinations of their settings in which every pair of
// settings occurs: most faults between settings involve two of them.
func TestPairs(t *testing.T) {
	sizes := make([]int, len(factors))
	for i, f := range factors {
		sizes[i] = len(f.values)
	}
	rows := allPairs(sizes, isExcluded, shows)
	t.Logf("%d combinations of %d factors, and %d that are refused", len(rows), len(factors), len(excluded))
	for i, row := range rows {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			newCombination(t, row).accepted()
		})
	}
	for _, pair := range excluded {
		t.Run(fmt.Sprint("refused ", pair), func(t *testing.T) {
			t.Parallel()
			row := make([]int, len(factors))
			for _, one := range pair {
				at := slices.IndexFunc(factors, func(f factor) bool { return f.name == one[0] })
				row[at] = slices.IndexFunc(factors[at].values, func(s setting) bool { return s.name == one[1] })
			}
			newCombination(t, row).refused()
		})
	}
}

// TestAllPairs: every allowed pair is in a combination that counts, and no excluded pair is.
func TestAllPairs(t *testing.T) {
	never := pair{{0, 1}, {2, 2}}
	rows := allPairs([]int{2, 3, 4, 3}, func(p pair) bool { return p == never }, func(row []int, p pair) bool { return row[0] == 0 || p[0].factor == 0 })
	for a, v := range []int{2, 3, 4, 3} {
		for b, w := range []int{2, 3, 4, 3} {
			for i := range v * w {
				p := pair{{a, i % v}, {b, i / v}}
				n := 0
				for _, row := range rows {
					if row[a] == p[0].value && row[b] == p[1].value && (row[0] == 0 || a == 0) {
						n++
					}
				}
				if a < b && (n == 0) != (p == never) {
					t.Errorf("%v is in %d of %v", p, n, rows)
				}
			}
		}
	}
	if len(rows) > 24 {
		t.Errorf("%d combinations, and 12 would do without the exclusions", len(rows))
	}
}

// combination is one run of the two programs.
type combination struct {
	t          *testing.T
	row        []int
	dir        string
	send, recv *exec.Cmd
	said       [2]bytes.Buffer // on stderr, by mig-send and mig-recv
	told       [2]bytes.Buffer // on stdout
}

const (
	askScript  = "#!/bin/sh\nset -C\necho $MIGPIPE_SIDE 2>/dev/null >DIR/register.$MIGPIPE_MIGRATION.$MIGPIPE_EPOCH\ncat DIR/register.$MIGPIPE_MIGRATION.$MIGPIPE_EPOCH\n"
	hookScript = "#!/bin/sh\necho $MIGPIPE_SIDE $MIGPIPE_EVENT >>DIR/hooked\n"
)

func newCombination(t *testing.T, row []int) *combination {
	c := &combination{t: t, row: row, dir: t.TempDir()}
	for name, text := range map[string]string{"ask": askScript, "hook": hookScript, "in": strings.Repeat("state", 50_000)} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(c.here(text)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"here", "there"} {
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// A program that is the witness is slow on a busy machine.
	send, recv := []string{"--to", "unix:DIR/sock", "--downtime-target", "20s"}, []string{"--listen", "unix:DIR/sock"}
	for i, f := range factors {
		send = append(send, strings.Fields(f.values[row[i]].send)...)
		recv = append(recv, strings.Fields(f.values[row[i]].recv)...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	c.send, c.recv = c.command(ctx, 0, "mig-send", send), c.command(ctx, 1, "mig-recv", recv)
	return c
}

// here inserts the combination's directory into a text.
func (c *combination) here(text string) string { return strings.ReplaceAll(text, "DIR", c.dir) }

func (c *combination) command(ctx context.Context, side int, program string, args []string) *exec.Cmd {
	for i := range args {
		args[i] = c.here(args[i])
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}
	cmd.Stdout, cmd.Stderr = &c.told[side], &c.said[side]
	cmd.Stdin = strings.NewReader("paused\ncommit\n")
	if side == 1 {
		cmd.Stdin = strings.NewReader("started\n")
	}
	return cmd
}

// has reports whether a factor has a setting.
func (c *combination) has(name, value string) bool {
	at := slices.IndexFunc(factors, func(f factor) bool { return f.name == name })
	return factors[at].values[c.row[at]].name == value
}

// accepted runs an allowed combination: the migration commits, or a dry run accepts it.
func (c *combination) accepted() {
	c.t.Helper()
	if err := c.recv.Start(); err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(c.dir, "sock")); err == nil {
			break
		}
	}
	c.run(c.send, 0)
	if c.has("run", "dry") { // a dry run leaves mig-recv waiting
		c.recv.Process.Signal(syscall.SIGTERM)
		c.end(c.recv, 9)
	} else {
		c.end(c.recv, 0)
	}
	c.check()
}

// refused runs a combination that one program has to reject as a contradiction.
func (c *combination) refused() {
	c.t.Helper()
	of, side := c.send, 0
	if c.has("mig-recv's commit", "external") {
		of, side = c.recv, 1
	}
	c.run(of, 2)
	if !strings.Contains(c.said[side].String(), "error: --") {
		c.fail("no flag is named")
	}
}

func (c *combination) run(cmd *exec.Cmd, exit int) {
	c.t.Helper()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.end(cmd, exit)
}

func (c *combination) end(cmd *exec.Cmd, exit int) {
	c.t.Helper()
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != exit {
		c.fail(fmt.Sprintf("%s: %v, want exit %d", filepath.Base(cmd.Path), cmd.ProcessState, exit))
	}
}

// check checks the files that a combination leaves, and the programs' output.
func (c *combination) check() {
	c.t.Helper()
	dry := c.has("run", "dry")
	want := [2]string{`"outcome":"committed"`, `"outcome":"committed"`}
	if dry {
		want = [2]string{`"event":"preflight"`, `"outcome":"aborted"`}
	}
	for side, view := range []string{"mig-send's view", "mig-recv's view"} {
		if c.has(view, "json") && !strings.Contains(c.told[side].String(), want[side]) {
			c.fail("no event has " + want[side])
		}
		if c.has(view, "quiet") && c.told[side].Len() > 0 {
			c.fail(view + " is not quiet")
		}
	}
	state, _ := os.ReadFile(filepath.Join(c.dir, "in"))
	if got, _ := os.ReadFile(filepath.Join(c.dir, "out")); c.has("device", "file") && bytes.Equal(got, state) == dry {
		c.fail(fmt.Sprintf("the file has %d bytes", len(got)))
	}
	hooked, _ := os.ReadFile(filepath.Join(c.dir, "hooked"))
	if ran := bytes.Count(hooked, []byte("\n")); c.has("hooks", "all") && !dry && ran != 2 || dry && ran != 0 {
		c.fail(fmt.Sprintf("the hooks wrote %q", hooked))
	}
}

// fail reports an error with its combination.
func (c *combination) fail(text string) {
	c.t.Helper()
	c.t.Errorf("%s\nwith %s\nand  %s\nmig-send said: %s\nmig-recv said: %s", text,
		strings.Join(c.send.Args[1:], " "), strings.Join(c.recv.Args[1:], " "), &c.said[0], &c.said[1])
}
