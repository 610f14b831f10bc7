package writer

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// TestRecoverInPart checks a process that should continue a migration which the devices do not
// hold: the migration ends at once, whether its source asks or not. A part in a device that another
// process holds open is reset, and no other device is touched. After ACCEPT such devices take no
// other migration before people have looked at them.
func TestRecoverInPart(t *testing.T) {
	for _, c := range []struct {
		record     handoff.Record
		heldOpen   bool
		left, want vfio.State
		becomes    handoff.Record
		outcome    migration.Outcome
	}{
		{handoff.Open, true, vfio.Resuming, vfio.Running, handoff.Aborted, migration.Aborted},
		{handoff.Open, true, vfio.StopCopy, vfio.StopCopy, handoff.Aborted, migration.Aborted}, // it is being saved
		{handoff.Open, true, vfio.Stop, vfio.Stop, handoff.Aborted, migration.Aborted},
		{handoff.Ready, true, vfio.Resuming, vfio.Running, handoff.Aborted, migration.Aborted}, // the copy is not there
		{handoff.Ready, false, vfio.Running, vfio.Running, handoff.Aborted, migration.Aborted},
		{handoff.Open, false, vfio.Resuming, vfio.Resuming, handoff.Aborted, migration.Aborted},
		{handoff.Accept, false, vfio.Running, vfio.Running, handoff.Lost, migration.Aborted},  // a new device
		{handoff.Accept, true, vfio.Resuming, vfio.Resuming, handoff.Lost, migration.InDoubt}, // for people to look at
		{handoff.Forced, true, vfio.Resuming, vfio.Resuming, handoff.Forced, migration.InDoubt},
		{handoff.Lost, true, vfio.Running, vfio.Running, handoff.Lost, migration.InDoubt},
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
			a := migration.Attempt{Mig: migration.ID{1}, Epoch: 1}
			if err := j.Append(handoff.Entry{Record: c.record, Attempt: a, Journal: j.ID()}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := Receive(ctx, l, []Target{{Name: "d", Device: device, HeldOpen: c.heldOpen}}, &Options{
				Continue: a.Mig, Journals: func(migration.ID, bool) (handoff.Journal, error) { return j, nil },
			})
			if r.Outcome != c.outcome || len(r.Warnings) > 0 {
				t.Errorf("%v, %+v, %v", c, r, err)
			}
			if now, err := device.State(); now != c.want {
				t.Errorf("with %v, held open %v, a device in %v is in %v (%v) afterwards, want %v", c.record, c.heldOpen, c.left, now, err, c.want)
			}
			if got := j.Last().Record; got != c.becomes {
				t.Errorf("with a device in %v, %v becomes %v, want %v", c.left, c.record, got, c.becomes)
			}
		})
	}
}

// resumeAsSource plays a source that sends RESUME, and receives RUNNING.
func resumeAsSource(ctx context.Context, d transport.Dialer, m *wire.Resume) (*wire.Control, error) {
	lane, err := d.Dial(ctx)
	if err == nil {
		err = wire.WritePreamble(lane, wire.Preamble{Kind: wire.LaneControl, Mig: m.Mig, Epoch: m.Epoch})
	}
	if err != nil {
		return nil, err
	}
	control := wire.NewControl(lane)
	if err = control.Send(m); err != nil {
		return nil, err
	}
	for {
		m, err := control.Receive()
		if err != nil || m.Type() == wire.TypeRunning {
			return control, err
		}
	}
}

// TestRunningIsSentAgain checks that a source which hangs up without FIN gets RUNNING again: it
// ends a try that takes too long, and its process may end at any time.
func TestRunningIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device, err := sim.OpenURL("mtty")
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		d, l := transport.Pipe()
		defer l.Close()
		j := handoff.NewMemory()
		a := migration.Attempt{Mig: migration.ID{1}, Epoch: 1}
		if err := j.Append(handoff.Entry{Record: handoff.Accept, Attempt: a, Journal: j.ID()}); err != nil {
			t.Fatal(err)
		}
		source := make(chan error, 1)
		go func() { // ends with FIN, or the destination
			resume := &wire.Resume{Attempt: a, Peer: j.ID()}
			for i := range 3 {
				control, err := resumeAsSource(t.Context(), d, resume)
				if err != nil {
					source <- fmt.Errorf("try %d: %w", i, err)
					return
				}
				if i == 2 {
					control.Send(&wire.Fin{Attempt: a})
					wire.HangUp(control.Lane(), func() {})
					break
				}
				control.Lane().Close()
				time.Sleep(10 * time.Second)
			}
			source <- nil
		}()
		r, err := Receive(t.Context(), l, []Target{{Name: "d", Device: device, HeldOpen: true}}, &Options{
			Continue: a.Mig, Journals: func(migration.ID, bool) (handoff.Journal, error) { return j, nil },
		})
		if r.Outcome != migration.Committed || err != nil {
			t.Errorf("%+v, %v", r, err)
		}
		l.Close()
		if err := <-source; err != nil {
			t.Errorf("the source got no answer: %v", err)
		}
		if got := j.Last().Record; got != handoff.Done {
			t.Errorf("recorded is %v, want %v", got, handoff.Done)
		}
	})
}
