package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// leftAt are migrations that were left, the newest last; their ids count from 1.
func leftAt(records ...handoff.Record) (left remains) {
	for i, r := range records {
		left = append(left, journal.Record{
			Entry: handoff.Entry{Record: r, Attempt: migration.Attempt{Mig: migration.ID{byte(i + 1)}, Epoch: 1}},
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
		got, _, err := chosen(t, c.goOn, c.left, c.state)
		if err != nil || got != c.want {
			t.Errorf("of %v, with a device in %v: %d, %v, want %d", c.left, c.state, got, err, c.want)
		}
	}
}

// TestChooseNewest: what was accepted last is what the devices hold, and a copy that was
// complete before is nobody's; a copy that is the newest may not be theirs either.
func TestChooseNewest(t *testing.T) {
	for _, c := range []struct {
		goOn   bool
		left   remains
		state  vfio.State
		want   byte // of the id, 0 for none
		passed string
		fails  bool
	}{
		{true, leftAt(handoff.Ready, handoff.Accept), vfio.Stop, 2, "READY", false},
		{true, leftAt(handoff.Ready, handoff.Accept), vfio.Running, 2, "READY", false},
		{true, leftAt(handoff.Ready, handoff.Ready, handoff.Accept), vfio.Stop, 3, "READY", false},
		{true, leftAt(handoff.Ready, handoff.Running), vfio.Running, 2, "READY", false},
		{true, leftAt(handoff.Accept, handoff.Accept), vfio.Stop, 2, "ACCEPT", false},
		{false, leftAt(handoff.Ready, handoff.Accept), vfio.Stop, 2, "READY", false},
		{false, leftAt(handoff.Ready, handoff.Accept), vfio.Running, 0, "", true},
		{true, leftAt(handoff.Ready), vfio.Stop, 1, "", false},
		{false, leftAt(handoff.Ready), vfio.Stop, 1, "", false},
		{true, leftAt(handoff.Ready, handoff.Ready), vfio.Stop, 0, "", true},
		{true, leftAt(handoff.Accept, handoff.Ready), vfio.Stop, 0, "", true},

		// What a person has decided, as long as nothing has come after it.
		{true, leftAt(handoff.Forced), vfio.Stop, 1, "", false},
		{false, leftAt(handoff.Forced), vfio.Stop, 1, "", false},
		{true, leftAt(handoff.Ready, handoff.Forced), vfio.Stop, 2, "READY", false},
		{false, leftAt(handoff.Ready, handoff.Forced), vfio.Stop, 2, "READY", false},
		{true, leftAt(handoff.Forced), vfio.RunningP2P, 1, "", false},
		{false, leftAt(handoff.Forced), vfio.RunningP2P, 0, "", false},
		{true, leftAt(handoff.Forced), vfio.Running, 0, "", false},
		{false, leftAt(handoff.Forced), vfio.Running, 0, "", false},
		{true, leftAt(handoff.Forced, handoff.Ready), vfio.Stop, 2, "", false},
		{false, leftAt(handoff.Forced, handoff.Done), vfio.Stop, 0, "", false},
		{true, leftAt(handoff.Forced, handoff.Done), vfio.Stop, 0, "", false},
		{true, leftAt(handoff.Forced, handoff.Open), vfio.Resuming, 2, "", false},
	} {
		past, r, err := chosen(t, c.goOn, c.left, c.state)
		if (err != nil) != c.fails || past != c.want || !strings.Contains(r.passed.String(), c.passed) || (c.passed == "") != (len(r.passed) == 0) {
			t.Errorf("of %v, with a device in %v: %d, %v, passed over %q, want %d and %q", c.left, c.state, past, err, r.passed, c.want, c.passed)
		}
	}
}

// chosen is what mig-recv goes on with, if its device was lent in such a state: the first
// byte of the id, 0 for none.
func chosen(t *testing.T, goOn bool, left remains, state vfio.State) (byte, *recvFlags, error) {
	t.Helper()
	device, err := sim.OpenURL("mtty")
	if err == nil {
		defer device.Close()
		_, err = device.SetState(state)
	}
	if err != nil {
		t.Fatal(err)
	}
	lent := []opened{{name: "d", Device: device, lent: true}}
	r := &recvFlags{}
	r.past.goOn, r.reconnect = goOn, time.Minute
	past, err := r.choose(left, lent, lent)
	if past == nil {
		return 0, r, err
	}
	return past.Attempt.Mig[0], r, err
}
