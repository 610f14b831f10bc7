// Command mutants plants one fault at a time in the code, and runs the tests that ought to find
// it. A fault that no test finds is a hole in the tests: the command then exits with 1.
//
//	go run ./test/mutants [NAME...]
//
// The code itself does not change: the go command reads the changed file in place of the real
// one (`go help build`, -overlay). A property test that finds a fault leaves its input in
// testdata/rapid, which git ignores.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants: error:", err)
		os.Exit(1)
	}
}

// run tries the mutants with these names, or all of them without a name.
func run(names []string) error {
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tried, survived := 0, 0
	for _, m := range mutants {
		if len(names) > 0 && !slices.Contains(names, m.name) {
			continue
		}
		began := time.Now()
		killer, err := m.try(dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		tried++
		if killer == "" {
			survived++
			killer = "SURVIVED " + m.tests
		}
		fmt.Printf("%-34s %5.1f s  %s\n", m.name, time.Since(began).Seconds(), killer)
	}
	if tried == 0 {
		return fmt.Errorf("%q names no mutant", names)
	}
	fmt.Printf("%d of %d planted faults were found\n", tried-survived, tried)
	if survived > 0 {
		return fmt.Errorf("%d planted faults survive the tests", survived)
	}
	return nil
}

// mutant is a fault: other text in one place of a file.
type mutant struct {
	name string
	file string // below the root of the module
	old  string // occurs once
	new  string
	// tests are arguments of `go test`: a pattern of tests, and the packages with them.
	tests string
}

// text is the file with the fault.
func (m mutant) text(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return nil, fmt.Errorf("%s has %d places with the text %q, want 1: bring test/mutants/list.go up to date", m.file, n, m.old)
	}
	return []byte(strings.Replace(string(text), m.old, m.new, 1)), nil
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^(panic: .*)|^(fatal error: .*)`)

// try runs the tests with the fault in place. killer is the test that found it, "" for none.
func (m mutant) try(dir string) (killer string, err error) {
	text, err := m.text(".")
	if err != nil {
		return "", err
	}
	changed, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, m.file): changed}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(changed, text, 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-overlay", overlay, "./...")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("it does not compile: %s", out)
	}
	args := append([]string{"test", "-overlay", overlay, "-count=1", "-failfast", "-timeout=2m", "-run"}, strings.Fields(m.tests)...)
	out, err := exec.Command("go", args...).CombinedOutput()
	if err == nil {
		return "", nil
	}
	if found := failed.FindAllString(string(out), -1); len(found) > 0 {
		return strings.TrimSpace(slices.MaxFunc(found, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") })), nil
	}
	return "", fmt.Errorf("go %s failed, and names no test:\n%s", strings.Join(args, " "), out)
}
