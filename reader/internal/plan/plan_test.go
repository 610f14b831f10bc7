package plan_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/reader/internal/plan/plantest"
)

var update = flag.Bool("update", false, "write the plan's answers into the scenarios")

// TestPlan plays every scenario of plantest/testdata and compares the plan's answers, the
// indented lines, with those in the file.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("plantest/testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := plantest.Play(string(text), plantest.StepPlan)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("the plan does\n%s\nthe scenario says\n%s", got, text)
			}
		})
	}
}
