package migrate

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

// narrowPayload is the longest datagram that old connections get through: that of a
// heartbeat is shorter, and that of data is not.
const narrowPayload = 1000

// TestPathNarrows: the MTU of the path becomes smaller, and nobody says so. Small packets
// pass, and so every connection lives, and carries nothing. New ones do.
func TestPathNarrows(t *testing.T) {
	for _, c := range []struct {
		name    string
		phase   string
		device  string
		devices int
	}{
		// The data lanes are dead and the control lane is not.
		{"while the guest runs", report.PreCopy, "mlx5?size=4MiB&dirty=64KiB/s", 1},
		{"while it stands still", report.StopCopy, "xe?size=4MiB", 1},
		// ACK and ESTIMATE of many devices are long: the control lane is dead as well.
		{"for long messages too", report.StopCopy, "xe?size=64KiB", 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			took, down := make([]time.Duration, 2), make([]time.Duration, 2)
			for i, most := range []int{0, narrowPayload} {
				synctest.Test(t, func(t *testing.T) {
					s := newBridge(t)
					s.sources, s.sinks, s.src, s.dst, s.urls = nil, nil, nil, nil, nil
					for n := range c.devices {
						s.add(t, fmt.Sprintf("d%d", n), c.device, c.device)
					}
					s.on(c.phase, func() { time.AfterFunc(50*time.Millisecond, func() { s.net.Narrow(most) }) })
					took[i] = s.commits(t)
					down[i] = s.s.report.Downtime
				})
			}
			if more := took[1] - took[0]; more < time.Second || more > 3*time.Second {
				t.Errorf("the narrow path has cost %v of %v", more, took[1])
			}
			if more := down[1] - down[0]; more > 3*time.Second {
				t.Errorf("the narrow path has cost %v of downtime", more)
			}
		})
	}
}
