// Package golden compares what a test makes with files in its testdata.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

// Update has tests write the golden files instead of comparing with them: go test -update.
var Update = flag.Bool("update", false, "write the golden files in testdata")

// Compare compares a text with testdata/name.
func Compare(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
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
