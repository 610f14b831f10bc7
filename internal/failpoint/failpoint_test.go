package failpoint

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestShippedProgramsHaveNone checks that the shipped programs have no points.
func TestShippedProgramsHaveNone(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs twice")
	}
	for tags, want := range map[string]bool{"": false, "failpoints": true} {
		dir := t.TempDir()
		build := exec.Command("go", "build", "-tags", tags, "-o", dir, "../../cmd/mig-send", "../../cmd/mig-recv")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", build, err, out)
		}
		for _, program := range []string{"mig-send", "mig-recv"} {
			path := filepath.Join(dir, program)
			binary, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Contains(binary, []byte("MIGPIPE_FAILPOINTS")); got != want {
				t.Errorf("%s with tags %q names the variable: %v", program, tags, got)
			}
			symbols, err := exec.Command("go", "tool", "nm", path).Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Contains(symbols, []byte("internal/failpoint.")); got != want {
				t.Errorf("%s with tags %q has symbols of this package: %v", program, tags, got)
			}
		}
	}
}
