package reader

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
		limits  limits
		applied uint64
		rate    float64
	}{
		{"initial bytes are missing", limits{downtime: s, maxPrecopy: time.Hour, maxRounds: 9}, 0, mib},
		{"it would take too long", limits{downtime: s, maxPrecopy: time.Hour, maxRounds: 9}, 100 * mib, mib},
		{"over a limit", limits{downtime: s, maxPrecopy: s, maxRounds: 9, onLimit: Continue}, 100 * mib, mib},
		{"the path is unknown", limits{downtime: s, maxPrecopy: time.Hour, maxRounds: 9}, 100 * mib, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 8 // what there is one of for each does not fit the stack
			p := newPlan(c.limits, slices.Repeat([]vfio.Features{{PreCopy: true}}, n))
			p.warmth = warm
			p.step(0, connected{})
			p.step(0, reached{})
			for i := range n {
				p.step(0, sized{i, 200 * mib})
				p.step(s, polled{device: i, offset: 100 * mib, idle: true, pending: vfio.Pending{Dirty: 100 * mib}})
			}
			rates := slices.Repeat([]float64{1e9}, n)
			ev := &measured{moved: moved{slices.Repeat([]uint64{100 * mib}, n), slices.Repeat([]uint64{c.applied}, n)}, save: rates, load: rates}
			ev.path = path{chunk: mib, rate: c.rate, full: true, rtt: known(time.Millisecond)}
			p.step(2*s, ev)
			allocs := testing.AllocsPerRun(100, func() {
				if actions := p.step(3*s, ev); actions != nil {
					t.Fatalf("%T", actions[0])
				}
			})
			if allocs != 0 || p.phase != precopying {
				t.Errorf("%v allocations, %v", allocs, p.phase)
			}
		})
	}
}
