package record

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
)

// A file is replaced as a whole, and a failed replacement leaves nothing behind.
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
		t.Error("a file took the place of a directory")
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 2 {
		t.Errorf("%v, %v: something was left behind", names, err)
	}
}

// A page can read a finding back, whole; it exists in other formats as well.
func TestLeave(t *testing.T) {
	dir := t.TempDir()
	left := Finding{[]int{1, 2}, "a table\n", plot.New(), 5 * vg.Centimeter}
	left.Drawing.Title.Text = "a drawing"
	if _, _, err := Left(dir, "it"); err == nil {
		t.Error("something is there before it was left")
	}
	if err := left.Leave(dir, "it"); err != nil {
		t.Fatal(err)
	}
	table, drawing, err := Left(dir, "it")
	if err != nil || table != left.Table || !bytes.Contains(drawing, []byte("a drawing")) {
		t.Errorf("%v, %q and %.99q", err, table, drawing)
	}
	for name, magic := range map[string]string{"it.png": "\x89PNG", "it.json": "[\n"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.HasPrefix(b, []byte(magic)) {
			t.Errorf("%s: %v, begins with %.8q", name, err, b)
		}
	}
	for _, name := range []string{"it.txt", "it.svg"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Left(dir, "it"); err == nil {
			t.Errorf("without %s it is there", name)
		}
		if err := left.Leave(dir, "it"); err != nil {
			t.Fatal(err)
		}
	}
}
