package migration

import (
	"testing"
	"time"
)

// TestNameBottleneck: a step in which no state moves is named where it took most of the
// downtime, and nothing is where the steps are not known.
func TestNameBottleneck(t *testing.T) {
	steps := func(witness, wire time.Duration) []Stage {
		return []Stage{{StageWire, wire}, {StageWitness, witness}}
	}
	for name, c := range map[string]struct {
		outcome Outcome
		stages  []Stage
		want    string
	}{
		"a witness":             {Committed, steps(2*time.Second, time.Second), StageWitness},
		"the network":           {Committed, steps(time.Second, 2*time.Second), BoundNetwork},
		"aborted, no stages":    {Aborted, nil, ""},
		"in doubt, no stages":   {InDoubt, nil, ""},
		"committed, not stages": {Committed, nil, BoundNetwork},
	} {
		r := Report{Outcome: c.outcome, Stages: c.stages, StopOccupancy: Occupancy{Bottleneck: BoundNetwork}}
		if r.NameBottleneck(); r.StopOccupancy.Bottleneck != c.want {
			t.Errorf("%s: bound by %q, want %q", name, r.StopOccupancy.Bottleneck, c.want)
		}
	}
}
