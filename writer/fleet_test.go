package writer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// TestSettle checks that a loader which was about to finish at the reset leaves no state in its
// device.
func TestSettle(t *testing.T) {
	d, err := sim.OpenURL("mlx5?size=1MiB")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := newFleet([]Target{{Name: "d", Device: d}})
	if err := errors.Join(f.prepare(), f.reset()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetState(vfio.Stop); err != nil { // as the loader does
		t.Fatal(err)
	}
	if err := f.resetAgain(); err != nil {
		t.Error(err)
	}
	if now, _ := d.State(); now != vfio.Running {
		t.Errorf("the device is in %v", now)
	}
	f.closeStreams()
}

// brokenDevice goes to ERROR when it should start, as a device whose copy is lost.
type brokenDevice struct {
	*sim.Device
	gone bool
}

func (d *brokenDevice) State() (vfio.State, error) {
	if d.gone {
		return vfio.StateError, nil
	}
	return d.Device.State()
}

func (d *brokenDevice) SetState(to vfio.State) (vfio.Stream, error) {
	if d.gone = d.gone || to == vfio.RunningP2P; d.gone {
		return nil, vfio.ErrInError
	}
	return d.Device.SetState(to)
}

func (d *brokenDevice) Reset() error {
	d.gone = false
	return d.Device.Reset()
}

// TestFleet checks what a failed start leaves of the copy.
func TestFleet(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults []string // by device
		want   handoff.Copy
	}{
		{"quiesced only", []string{"", "set@STOP-RUNNING_P2P:EIO"}, handoff.Kept},
		{"one ran", []string{"", "set@RUNNING_P2P-RUNNING:EIO"}, handoff.Unclear},
		{"alone", []string{"set@STOP-RUNNING_P2P:EIO"}, handoff.Kept},
		{"copy lost", []string{"", "gone"}, handoff.Dropped},
	} {
		t.Run(c.name, func(t *testing.T) {
			var targets []Target
			for i, fault := range c.faults {
				url := "qat"
				if strings.Contains(fault, "@") {
					url += "?fault=" + fault
				}
				d, err := sim.OpenURL(url)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				target := Target{Name: fmt.Sprint("d", i), Device: d}
				if fault == "gone" {
					target.Device = &brokenDevice{Device: d}
				}
				targets = append(targets, target)
			}
			f, n := newFleet(targets), len(targets)
			if err := f.prepare(); err != nil {
				t.Fatal(err)
			}
			for _, d := range f.devices {
				if _, err := d.stream.Write(make([]byte, 0)); err != nil {
					t.Fatal(err)
				}
				if err := f.enter(d, vfio.Stop); err != nil {
					t.Fatal(err)
				}
			}
			err := f.start()
			fault, ok := errors.AsType[*transport.Fault](err)
			if !ok || fault.Code != transport.CodeStart || fault.Device != fmt.Sprint("d", n-1) {
				t.Errorf("start: %v", err)
			}
			if got := f.undoStart(); got != c.want {
				t.Errorf("the copy is %v, want %v", got, c.want)
			}
			f.closeStreams()
			if err := f.reset(); err != nil {
				t.Error(err)
			}
			for _, d := range f.devices {
				if s := d.stateText(); s != vfio.Running.String() {
					t.Errorf("device %s is in %s after the reset", d.Name, s)
				}
			}
		})
	}
}

// TestAdoptedMayHaveRun checks a start that fails after an earlier process recorded ACCEPT: any
// device may have run, so the source must not take its own copy for the only one.
func TestAdoptedMayHaveRun(t *testing.T) {
	for r, want := range map[handoff.Record]handoff.Copy{handoff.Accept: handoff.Unclear, handoff.Ready: handoff.Kept} {
		device, err := sim.OpenURL("mtty?fault=set@STOP-RUNNING_P2P:EIO")
		if err == nil {
			_, err = device.SetState(vfio.Stop)
		}
		if err != nil {
			t.Fatal(err)
		}
		f := newFleet([]Target{{Name: "d", Device: device, HeldOpen: true}})
		if got := f.holding(r); got != handoff.Whole {
			t.Errorf("after %v the device holds %v", r, got)
		}
		f.adopt(r)
		if err := f.start(); err == nil {
			t.Error("the start succeeded")
		}
		if got := f.undoStart(); got != want {
			t.Errorf("after %v the copy is %v, want %v", r, got, want)
		}
		device.Close()
	}
}
