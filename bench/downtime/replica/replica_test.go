package replica

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ways are the replicas.
var ways = map[string]func(context.Context, *Job) error{
	"serial":  func(ctx context.Context, j *Job) error { return j.Serial(ctx, false) },
	"ack":     func(ctx context.Context, j *Job) error { return j.Serial(ctx, true) },
	"multifd": func(ctx context.Context, j *Job) error { return j.Multifd(ctx, 3) },
}

// newJob is a migration over memory, of two devices.
func newJob(t *testing.T, source, sink string) (*Job, []*sim.Device) {
	t.Helper()
	j := &Job{Paused: func() {}}
	var l transport.Listener
	j.Dialer, l = transport.Pipe()
	j.Listener = l
	t.Cleanup(func() { l.Close() })
	var sinks []*sim.Device
	for i := range 2 {
		j.Sources = append(j.Sources, open(t, fmt.Sprintf("%s&seed=%d", source, i)))
		d := open(t, sink)
		j.Sinks, sinks = append(j.Sinks, d), append(sinks, d)
	}
	return j, sinks
}

func open(t *testing.T, url string) *sim.Device {
	t.Helper()
	d, err := sim.OpenURL(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestStateArrives(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j, sinks := newJob(t, "mlx5?size=20MiB&save=100MiB/s&dirty=200MiB/s&stop=5ms", "mlx5?load=200MiB/s&record=8MiB&alloc=50ms&start=5ms")
				if err := way(t.Context(), j); err != nil {
					t.Fatal(err)
				}
				for i, d := range sinks {
					if err := d.Verify(); err != nil {
						t.Error(err)
					}
					if s, _ := d.State(); s != vfio.Running {
						t.Errorf("device %d is in %v", i, s)
					}
					if s, _ := j.Sources[i].State(); s != vfio.Stop {
						t.Errorf("source %d is in %v", i, s)
					}
				}
			})
		})
	}
}

// Only with ack has the destination allocated before the guest is paused.
func TestAckWaitsForTheDestination(t *testing.T) {
	for name, way := range ways {
		synctest.Test(t, func(t *testing.T) {
			j, _ := newJob(t, "mlx5?size=1MiB", "mlx5?alloc=1s")
			began := time.Now()
			var before time.Duration
			j.Paused = func() { before = time.Since(began) }
			if err := way(t.Context(), j); err != nil {
				t.Fatal(err)
			}
			if name != "serial" && before < 2*time.Second || name == "serial" && before > 1100*time.Millisecond {
				t.Errorf("%s: the guest was paused after %v", name, before)
			}
		})
	}
}

// A side that fails wakes the other.
func TestFailures(t *testing.T) {
	for name, way := range ways {
		for _, where := range []string{"read@300KiB", "read@1500KiB", "set@STOP_COPY", "write@300KiB", "write@1500KiB", "set@RUNNING_P2P-RUNNING"} {
			synctest.Test(t, func(t *testing.T) {
				source, sink := "mlx5?size=1MiB&dirty=1GiB/s&save=10MiB/s", "mlx5?load=100MiB/s"
				if strings.HasPrefix(where, "write") || strings.HasSuffix(where, "RUNNING") {
					sink += "&fault=" + where
				} else {
					source += "&fault=" + where
				}
				j, _ := newJob(t, source, sink)
				if err := way(t.Context(), j); err == nil {
					t.Errorf("%s, %s: no error", name, where)
				}
			})
		}
	}
}

func TestCancel(t *testing.T) {
	for name, way := range ways {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			j, _ := newJob(t, "mlx5?size=1MiB", "mlx5?alloc=2s")
			if err := way(ctx, j); err == nil {
				t.Errorf("%s: no error", name)
			}
		})
	}
}

func TestRefusesOtherDevices(t *testing.T) {
	j := &Job{Sources: []vfio.Device{open(t, "pds")}, Sinks: []vfio.Device{open(t, "pds")}}
	if err := j.Serial(t.Context(), true); err == nil || !strings.Contains(err.Error(), "PRE_COPY") {
		t.Error(err)
	}
}
