package writer

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// TestRecoverInPart: an attempt whose process ended while it loaded is over as soon as
// there is another one, if somebody else has kept the device: that is reset, and ABORTED
// recorded, whether a source asks or not. No other device is touched.
func TestRecoverInPart(t *testing.T) {
	for _, c := range []struct {
		record     handoff.Record
		kept       bool
		left, want vfio.State
		ended      bool // ABORTED is recorded
	}{
		{handoff.Open, true, vfio.Resuming, vfio.Running, true},
		{handoff.Open, true, vfio.StopCopy, vfio.StopCopy, false}, // it is being saved
		{handoff.Open, true, vfio.Stop, vfio.Stop, false},
		{handoff.Ready, true, vfio.Resuming, vfio.Running, true}, // so its copy is not there
		{handoff.Open, false, vfio.Resuming, vfio.Resuming, false},
		{handoff.Accept, true, vfio.Resuming, vfio.Resuming, false}, // for people to look at
	} {
		synctest.Test(t, func(t *testing.T) {
			device, err := sim.OpenURL("mtty")
			if err == nil {
				_, err = device.SetState(c.left)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			_, l := transport.Pipe()
			defer l.Close()
			j := handoff.NewMemory()
			a := transport.Attempt{Mig: transport.MigID{1}, Epoch: 1}
			if err := j.Append(handoff.Entry{Record: c.record, Attempt: a, Journal: j.ID()}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := Receive(ctx, l, []Sink{{Name: "d", Device: device, Kept: c.kept}}, &Options{
				Recover: a.Mig, Journals: func(transport.MigID, bool) (handoff.Journal, error) { return j, nil },
			})
			if r.Outcome != handoff.Rolledback || len(r.Warnings) > 0 {
				t.Errorf("%+v, %v", r, err)
			}
			if now, err := device.State(); now != c.want {
				t.Errorf("with %v, kept %v, a device in %v is in %v (%v) afterwards, want %v", c.record, c.kept, c.left, now, err, c.want)
			}
			record := c.record
			if c.ended {
				record = handoff.Aborted
			}
			if got := j.Last().Record; got != record {
				t.Errorf("with a device in %v, %v becomes %v, want %v", c.left, c.record, got, record)
			}
		})
	}
}

// comeBack is a source that says RESUME, and hears RUNNING.
func comeBack(ctx context.Context, d transport.Dialer, m *transport.Resume) (*transport.Control, error) {
	lane, err := d.Dial(ctx)
	if err == nil {
		err = transport.WritePreamble(lane, transport.Preamble{Kind: transport.LaneControl, Mig: m.Mig, Epoch: m.Epoch})
	}
	if err != nil {
		return nil, err
	}
	control := transport.NewControl(lane)
	if err = control.Send(m); err != nil {
		return nil, err
	}
	for {
		said, err := control.Receive()
		if err != nil || said.Type() == transport.TypeRunning {
			return control, err
		}
	}
}

// TestRunningIsToldAgain: a source that hangs up without FIN was not told, whatever its
// reason. It gives up a try that takes too long, and its process may end at any time.
func TestRunningIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device, err := sim.OpenURL("mtty")
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		d, l := transport.Pipe()
		defer l.Close()
		j := handoff.NewMemory()
		a := transport.Attempt{Mig: transport.MigID{1}, Epoch: 1}
		if err := j.Append(handoff.Entry{Record: handoff.Accept, Attempt: a, Journal: j.ID()}); err != nil {
			t.Fatal(err)
		}
		source := make(chan error, 1)
		go func() { // ends with FIN, or the destination
			resume := &transport.Resume{Attempt: a, Peer: j.ID()}
			for i := range 3 {
				control, err := comeBack(t.Context(), d, resume)
				if err != nil {
					source <- fmt.Errorf("try %d: %w", i, err)
					return
				}
				if i == 2 {
					control.Send(&transport.Fin{Attempt: a})
					transport.HangUp(control.Lane(), func() {})
					break
				}
				control.Lane().Close()
				time.Sleep(10 * time.Second)
			}
			source <- nil
		}()
		r, err := Receive(t.Context(), l, []Sink{{Name: "d", Device: device, Kept: true}}, &Options{
			Recover: a.Mig, Journals: func(transport.MigID, bool) (handoff.Journal, error) { return j, nil },
		})
		if r.Outcome != handoff.Committed || err != nil {
			t.Errorf("%+v, %v", r, err)
		}
		l.Close()
		if err := <-source; err != nil {
			t.Errorf("the source was not answered: %v", err)
		}
		if got := j.Last().Record; got != handoff.Done {
			t.Errorf("recorded is %v, want %v", got, handoff.Done)
		}
	})
}
