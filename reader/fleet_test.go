package reader

import (
	"slices"
	"syscall"
	"testing"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// TestFleetResumed checks that a transition which was decided before the way back, and comes after
// it, moves no device.
func TestFleetResumed(t *testing.T) {
	d, err := sim.Open("qat", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := newFleet(newDevices([]Source{{Name: "d", Device: d}}))
	if err := f.enter([]plan.Move{{Device: 0, To: vfio.PreCopy}}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.resume(false); err != nil {
		t.Fatal(err)
	}
	if err := f.enter([]plan.Move{{Device: 0, To: vfio.StopCopy}}); err != nil {
		t.Fatal(err)
	}
	if s, err := d.State(); s != vfio.Running || err != nil {
		t.Errorf("the device is in %v, %v", s, err)
	}
	f.closeStreams()
}

// brokenDevice goes to ERROR when it should run.
type brokenDevice struct {
	vfio.Device
	broken bool
}

func (d *brokenDevice) State() (vfio.State, error) {
	if d.broken {
		return vfio.StateError, nil
	}
	return d.Device.State()
}

func (d *brokenDevice) SetState(to vfio.State) (vfio.Stream, error) {
	if to == vfio.RunningP2P || to == vfio.Running {
		d.broken = true
		return nil, syscall.EIO
	}
	return d.Device.SetState(to)
}

// TestFleetResumeWhole checks that a set in which one device fails into ERROR stays stopped, so
// that none of its devices runs beside the destination's copy. Without whole the other device
// returns to RUNNING.
func TestFleetResumeWhole(t *testing.T) {
	for whole, want := range map[bool][]vfio.State{
		true:  {vfio.StateError, vfio.Stop},
		false: {vfio.StateError, vfio.Running},
	} {
		var sources []Source
		for _, profile := range []string{"mlx5", "hisi_acc"} { // with P2P, and without: it runs later
			d, err := sim.Open(profile, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if _, err := d.SetState(vfio.Stop); err != nil {
				t.Fatal(err)
			}
			sources = append(sources, Source{Name: "d", Device: d})
		}
		sources[0].Device = &brokenDevice{Device: sources[0].Device}
		f := newFleet(newDevices(sources))
		if _, err := f.resume(whole); err == nil {
			t.Error("resume reports no error for the device in ERROR")
		}
		var got []vfio.State
		for _, s := range sources {
			now, _ := s.Device.State()
			got = append(got, now)
		}
		if !slices.Equal(got, want) {
			t.Errorf("whole %v: %v, want %v", whole, got, want)
		}
	}
}
