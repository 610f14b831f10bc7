package cli

import (
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// leftAt are migrations that were left, the newest last; their ids count from 1.
func leftAt(records ...handoff.Record) (left remains) {
	for i, r := range records {
		left = append(left, journal.Record{
			Entry: handoff.Entry{Record: r, Attempt: transport.Attempt{Mig: transport.MigID{byte(i + 1)}, Epoch: 1}},
			Time:  time.Now().Add(time.Duration(i-len(records)) * time.Second),
		})
	}
	return left
}

// TestChooseInPart: a device that was lent and is left in the middle of a load belongs to
// the attempt that was open last, whose end the engine sees to; a copy comes first.
func TestChooseInPart(t *testing.T) {
	for _, c := range []struct {
		goOn  bool
		left  remains
		state vfio.State
		want  byte // of the id, 0 for none
	}{
		{true, leftAt(handoff.Open), vfio.Resuming, 1},
		{false, leftAt(handoff.Open), vfio.Resuming, 1},
		{true, leftAt(handoff.Open, handoff.Open, handoff.Aborted), vfio.Resuming, 2},
		{true, leftAt(handoff.Ready, handoff.Open), vfio.Resuming, 1},
		{true, leftAt(handoff.Open), vfio.Running, 0},
		{true, leftAt(handoff.Open), vfio.StopCopy, 0},
		{true, leftAt(handoff.Aborted), vfio.Resuming, 0},
	} {
		device, err := sim.OpenURL("mtty")
		if err == nil {
			_, err = device.SetState(c.state)
		}
		if err != nil {
			t.Fatal(err)
		}
		lent := []opened{{name: "d", Device: device, lent: true}}
		r := &recvFlags{}
		r.past.goOn, r.reconnect = c.goOn, time.Minute
		past, err := r.choose(c.left, lent, lent)
		device.Close()
		var got byte
		if past != nil {
			got = past.Attempt.Mig[0]
		}
		if err != nil || got != c.want {
			t.Errorf("of %v, with a device in %v: %d, %v, want %d", c.left, c.state, got, err, c.want)
		}
	}
}
