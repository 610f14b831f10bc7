package plan

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
			p := New(Limits{Downtime: 100 * ms, MaxPrecopy: time.Hour, MaxRounds: 1000}, manyPreCopy(devices), nil)
			p.Step(0, LanesOpened{})
			p.Step(0, StatesReached{})
			ev := &Measured{Path: wire, Stop: known(3 * ms), Start: known(7 * ms)}
			ev.Path.Full = true
			for i := range devices {
				p.Step(ms, PrecopyPolled{Device: i, Pending: vfio.Pending{Initial: 1 << 30, Dirty: 1 << 30}})
				ev.Drained, ev.Applied = append(ev.Drained, 2*mib), append(ev.Applied, mib)
				ev.Save, ev.Load = append(ev.Save, 200*mib), append(ev.Load, 50*mib)
			}
			for b.Loop() {
				if actions := p.Step(2*ms, ev); actions != nil {
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
