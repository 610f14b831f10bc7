package record

import (
	"os"
	"path/filepath"
	"testing"
)

// A file is replaced as a whole, and what cannot be put in place leaves nothing behind.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "figures")
	for _, text := range []string{"longer than the next", "next"} {
		if err := File(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Fatalf("%q, %v, want %q", got, err, text)
		}
	}
	taken := filepath.Join(dir, "new", "taken")
	if err := os.MkdirAll(filepath.Join(taken, "child"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := File(taken, nil); err == nil {
		t.Error("a file took the place of a folder")
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 2 {
		t.Errorf("%v, %v: something was left behind", names, err)
	}
}
