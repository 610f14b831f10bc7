package reader

import (
	"fmt"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// BenchmarkPlan is a step of the plan before the stop: what a stop now would take is
// predicted anew with all that was measured, for devices that are far from ready for it.
// The engine's one goroutine does so each time that it looks.
func BenchmarkPlan(b *testing.B) {
	for _, devices := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			p := newPlan(limits{downtime: 100 * ms, maxPrecopy: time.Hour, maxRounds: 1000}, manyPreCopy(devices))
			p.step(0, connected{})
			p.step(0, reached{})
			ev := &measured{path: wire, stop: known(3 * ms), start: known(7 * ms)}
			ev.path.full = true
			for i := range devices {
				p.step(ms, polled{device: i, pending: vfio.Pending{Initial: 1 << 30, Dirty: 1 << 30}})
				ev.drained, ev.applied = append(ev.drained, 2*mib), append(ev.applied, mib)
				ev.save, ev.load = append(ev.save, 200*mib), append(ev.load, 50*mib)
			}
			for b.Loop() {
				if actions := p.step(2*ms, ev); actions != nil {
					b.Fatalf("the plan does %v", actions)
				}
			}
		})
	}
}

func manyPreCopy(n int) []vfio.Features {
	list := make([]vfio.Features, n)
	for i := range list {
		list[i] = vfio.Features{PreCopy: true, P2P: true, DataSize: true}
	}
	return list
}
