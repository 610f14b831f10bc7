package plan_test

import (
	"testing"

	"github.com/migpipe/migpipe/reader/internal/plan/plantest"
	"github.com/migpipe/migpipe/test/golden"
)

// TestPlan plays every scenario of plantest/testdata and compares the plan's answers, the indented
// lines, with those in the file.
func TestPlan(t *testing.T) {
	golden.Scenarios(t, "plantest/testdata/*.txt", func(t *testing.T, text string) string {
		got, err := plantest.Play(text, plantest.StepPlan)
		if err != nil {
			t.Fatal(err)
		}
		return got
	})
}
