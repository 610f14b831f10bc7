package handoff

import (
	"maps"
	"testing"
	"time"
)

type times map[string]time.Duration

func (t times) Last(step string) (time.Duration, bool) { took, ok := t[step]; return took, ok }

func (t times) Keep(took map[string]time.Duration) error { maps.Copy(t, took); return nil }

// TestKeepTimes: of devices the fastest run counts, of all else the last.
func TestKeepTimes(t *testing.T) {
	start, other := StepOf(StepStart, []string{"mlx5", "", "mlx5", "hisi_acc"}), StepOf(StepStop, []string{"xe"})
	if start != "start hisi_acc+mlx5" {
		t.Errorf("the step is %q", start)
	}
	kept := times{start: 2 * time.Second, StepGuest: time.Second}
	if err := KeepTimes(kept, map[string]time.Duration{start: 3 * time.Second, StepGuest: 3 * time.Second, other: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := KeepTimes(kept, map[string]time.Duration{start: time.Second}); err != nil {
		t.Fatal(err)
	}
	if want := (times{start: time.Second, StepGuest: 3 * time.Second, other: 5 * time.Second}); !maps.Equal(kept, want) {
		t.Errorf("kept are %v, want %v", kept, want)
	}
}
