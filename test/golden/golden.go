// Package golden compares the results of tests with files in their testdata.
package golden

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Update has tests write the golden files instead of comparing with them: go test -update.
var Update = flag.Bool("update", false, "write the golden files in testdata")

// Compare compares a text with testdata/name.
func Compare(t testing.TB, name, got string) {
	t.Helper()
	compare(t, filepath.Join("testdata", name), got)
}

func compare(t testing.TB, path, got string) {
	t.Helper()
	if *Update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it); got:\n%s", path, got)
	}
}

// Scenarios plays each matching file, and compares it with the result of play.
func Scenarios(t *testing.T, pattern string, play func(t *testing.T, text string) string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, file, play(t, string(text)))
		})
	}
}

// Play passes the words of each line at the margin to answer, and returns the text with the
// answers indented below. "#" begins a comment.
func Play(t *testing.T, text string, answer func(words []string) ([]string, error)) string {
	t.Helper()
	var out strings.Builder
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue // an answer
		}
		fmt.Fprintln(&out, line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		answers, err := answer(words)
		if err != nil {
			t.Fatalf("line %d: %q: %v", n+1, line, err)
		}
		for _, a := range answers {
			fmt.Fprintf(&out, "    -> %s\n", a)
		}
	}
	return out.String()
}
