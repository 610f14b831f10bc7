package plan

import (
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// TestMeasuredAllocations: what an ACK shows is taken in, and found not to be enough for
// a stop, without an allocation.
func TestMeasuredAllocations(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name    string
		limits  Limits
		applied uint64
		rate    float64
	}{
		{"initial bytes are missing", Limits{Downtime: s, MaxPrecopy: time.Hour, MaxRounds: 9}, 0, mib},
		{"it would take too long", Limits{Downtime: s, MaxPrecopy: time.Hour, MaxRounds: 9}, 100 * mib, mib},
		{"over a limit", Limits{Downtime: s, MaxPrecopy: s, MaxRounds: 9, OnLimit: Continue}, 100 * mib, mib},
		{"the path is unknown", Limits{Downtime: s, MaxPrecopy: time.Hour, MaxRounds: 9}, 100 * mib, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 8 // what there is one of for each does not fit the stack
			p := New(c.limits, slices.Repeat([]vfio.Features{{PreCopy: true}}, n), nil)
			p.warmth = warm
			p.Step(0, LanesOpened{})
			p.Step(0, StatesReached{})
			for i := range n {
				p.Step(0, SizePolled{i, 200 * mib})
				p.Step(s, PrecopyPolled{Device: i, Offset: 100 * mib, Idle: true, Pending: vfio.Pending{Dirty: 100 * mib}})
			}
			rates := slices.Repeat([]float64{1e9}, n)
			ev := &Measured{Drained: slices.Repeat([]uint64{100 * mib}, n), Applied: slices.Repeat([]uint64{c.applied}, n), Save: rates, Load: rates}
			ev.Path = Path{Chunk: mib, Rate: c.rate, Full: true, RTT: known(time.Millisecond)}
			p.Step(2*s, ev)
			allocs := testing.AllocsPerRun(100, func() {
				if actions := p.Step(3*s, ev); actions != nil {
					t.Fatalf("%T", actions[0])
				}
			})
			if allocs != 0 || p.phase != Precopying {
				t.Errorf("%v allocations, %v", allocs, p.phase)
			}
		})
	}
}
