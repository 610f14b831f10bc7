package reader

import (
	"testing"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// TestFleetResumed: a transition that was decided before the rollback and comes
// after it must not take a device away again.
func TestFleetResumed(t *testing.T) {
	d, err := sim.Open("qat", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := &fleet{sources: []Source{{Name: "d", Device: d}}, streams: make([]vfio.Stream, 1), each: parallel}
	if err := f.enter([]move{{0, vfio.PreCopy}}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.resume(false); err != nil {
		t.Fatal(err)
	}
	if err := f.enter([]move{{0, vfio.StopCopy}}); err != nil {
		t.Fatal(err)
	}
	if s, err := d.State(); s != vfio.Running || err != nil {
		t.Errorf("the device is in %v, %v", s, err)
	}
	f.closeStreams()
}
