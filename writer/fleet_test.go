package writer

import (
	"errors"
	"testing"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// TestSettle: a loader that was about to finish when its device was reset leaves
// nothing behind.
func TestSettle(t *testing.T) {
	d, err := sim.OpenURL("mlx5?size=1MiB")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := newFleet([]Sink{{Name: "d", Device: d}})
	if err := errors.Join(f.prepare(), f.reset()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetState(vfio.Stop); err != nil { // the loader
		t.Fatal(err)
	}
	if err := f.settle(); err != nil {
		t.Error(err)
	}
	if now, _ := d.State(); now != vfio.Running {
		t.Errorf("the device is in %v", now)
	}
	f.closeStreams()
}
