package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeExternal runs the commands of the README about a VMM that decides.
func TestReadmeExternal(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(block[1], "--commit external") {
			continue
		}
		ran = true
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", block[1])
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if n := strings.Count(string(out), `"event":"done"`); err != nil || n != 2 || strings.Count(string(out), `"outcome":"committed"`) != n {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if !ran {
		t.Error("README.md has no such commands: this test has lost its object")
	}
}
