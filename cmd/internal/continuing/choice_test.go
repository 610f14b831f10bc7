package continuing

import (
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// journalsAt are journals with these newest records, the newest last; their ids count from 1.
func journalsAt(records ...handoff.Record) (list journals) {
	for i, r := range records {
		list = append(list, Recorded{Record: journal.Record{
			Entry: handoff.Entry{Record: r, Attempt: migration.Attempt{Mig: migration.ID{byte(i + 1)}, Epoch: 1}},
			Time:  time.Now().Add(time.Duration(i-len(records)) * time.Second),
		}})
	}
	return list
}

// openIn is a device in a state.
func openIn(t *testing.T, state vfio.State) []input.Opened {
	t.Helper()
	device, err := sim.OpenURL("mtty")
	if err == nil {
		t.Cleanup(func() { device.Close() })
		_, err = device.SetState(state)
	}
	if err != nil {
		t.Fatal(err)
	}
	return []input.Opened{{Name: "d", Device: device, Lent: true}}
}

// idOf is the first byte of the id, 0 for none.
func idOf(r *Recorded) byte {
	if r == nil {
		return 0
	}
	return r.Attempt.Mig[0]
}

// TestDestinationContinues: the migration that was accepted last is what the devices hold. A
// copy that was complete before it is lost; beside a copy that is the newest, no other may be.
func TestDestinationContinues(t *testing.T) {
	const running, stopped = true, false
	for _, c := range []struct {
		all         journals
		outlive     bool
		run         bool
		want        byte // of the id, 0 for none
		overwritten string
		fails       bool
	}{
		{journalsAt(handoff.Ready, handoff.Accept), true, stopped, 2, "READY", false},
		{journalsAt(handoff.Ready, handoff.Accept), true, running, 2, "READY", false},
		{journalsAt(handoff.Ready, handoff.Accept), false, stopped, 2, "READY", false},
		{journalsAt(handoff.Ready, handoff.Ready, handoff.Accept), true, stopped, 3, "READY", false},
		{journalsAt(handoff.Ready, handoff.Running), true, running, 2, "READY", false},
		{journalsAt(handoff.Running), false, running, 0, "", false},
		{journalsAt(handoff.Accept, handoff.Accept), true, stopped, 2, "ACCEPT", false},
		{journalsAt(handoff.Ready), true, stopped, 1, "", false},
		{journalsAt(handoff.Ready, handoff.Ready), true, stopped, 0, "", true},
		{journalsAt(handoff.Accept, handoff.Ready), true, stopped, 0, "", true},

		// What a person has decided, as long as nothing has come after it.
		{journalsAt(handoff.Forced), true, stopped, 1, "", false},
		{journalsAt(handoff.Ready, handoff.Forced), true, stopped, 2, "READY", false},
		{journalsAt(handoff.Forced), true, running, 0, "", false},
		{journalsAt(handoff.Forced), false, stopped, 0, "", false},
		{journalsAt(handoff.Forced, handoff.Ready), true, stopped, 2, "", false},
		{journalsAt(handoff.Forced, handoff.Done), true, stopped, 0, "FORCED", false},
		{journalsAt(handoff.Accept, handoff.Done), true, running, 0, "ACCEPT", false},

		// A load that was interrupted is ended, unless there is a copy.
		{journalsAt(handoff.Open), true, stopped, 1, "", false},
		{journalsAt(handoff.Open, handoff.Open, handoff.Aborted), true, stopped, 2, "", false},
		{journalsAt(handoff.Ready, handoff.Open), true, stopped, 1, "", false},
		{journalsAt(handoff.Forced, handoff.Open), true, stopped, 2, "", false},
		{journalsAt(handoff.Aborted), true, stopped, 0, "", false},
	} {
		r := &Incoming{Reconnect: time.Minute}
		got, err := r.chooseDestination(r.dropOverwritten(c.all, nil), c.outlive, c.run)
		if (err != nil) != c.fails || idOf(got) != c.want || !strings.Contains(r.overwritten.String(), c.overwritten) || (c.overwritten == "") != (len(r.overwritten) == 0) {
			t.Errorf("of %v: %d, %v, overwritten %q, want %d and %q", c.all, idOf(got), err, r.overwritten, c.want, c.overwritten)
		}
	}
}

// TestPersistedStays: a copy that a device has persisted is not overwritten by later ones.
func TestPersistedStays(t *testing.T) {
	all := journalsAt(handoff.Ready, handoff.Done)
	r := &Incoming{}
	if left := r.dropOverwritten(all, map[string]bool{migration.ID{1}.String(): true}); len(left) != 1 || len(r.overwritten) != 0 {
		t.Errorf("left %v, overwritten %v", left, r.overwritten)
	}
}

// TestDestinationRefuses: without a flag, nothing is loaded into lent devices that may hold a
// copy, or the part of one.
func TestDestinationRefuses(t *testing.T) {
	for _, c := range []struct {
		all   journals
		state vfio.State
		want  string // in the refusal, "" for none
	}{
		{journalsAt(handoff.Accept), vfio.Running, "01.* is recorded as ACCEPT"},
		{journalsAt(handoff.Ready, handoff.Accept), vfio.Stop, "ACCEPT"},
		{journalsAt(handoff.Accept, handoff.Done), vfio.Running, ""},
		{journalsAt(handoff.Ready), vfio.Stop, "READY"},
		{journalsAt(handoff.Ready), vfio.RunningP2P, "READY"},
		{journalsAt(handoff.Ready), vfio.Running, ""},
		{journalsAt(handoff.Forced), vfio.Stop, "FORCED"},
		{journalsAt(handoff.Forced), vfio.Running, ""},
		{journalsAt(handoff.Open), vfio.Resuming, "OPEN"},
		{journalsAt(handoff.Open), vfio.Running, ""},
		{journalsAt(handoff.Running, handoff.Aborted, handoff.None), vfio.Stop, ""},
		{nil, vfio.Stop, ""},
	} {
		err := c.all.refuseDestination(openIn(t, c.state))
		_, kind, _ := strings.Cut(c.want, "* ")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), kind) {
			t.Errorf("%v, with a device in %v: %v, want %q", c.all, c.state, err, c.want)
		}
	}
}

// TestSourceContinues: a migration in doubt comes first, then one that was interrupted, unless
// another of the devices has ended since. What runs at its destination is not sent again.
func TestSourceContinues(t *testing.T) {
	for _, c := range []struct {
		all   journals
		state vfio.State
		want  byte
		fails bool
	}{
		{journalsAt(handoff.Commit, handoff.Open), vfio.Running, 1, false},
		{journalsAt(handoff.Commit, handoff.Commit), vfio.Stop, 0, true},
		{journalsAt(handoff.Open), vfio.Running, 1, false},
		{journalsAt(handoff.Open), vfio.StopCopy, 1, false},
		{journalsAt(handoff.Open, handoff.Open), vfio.StopCopy, 0, true},
		{journalsAt(handoff.Open, handoff.Done), vfio.Stop, 2, false},
		{journalsAt(handoff.Open, handoff.Done), vfio.Running, 0, false},
		{journalsAt(handoff.Done, handoff.Open), vfio.Stop, 2, false},
		{journalsAt(handoff.ResumeFailed), vfio.Stop, 1, false},
		{journalsAt(handoff.Done, handoff.Owner), vfio.Stop, 0, false},
		{nil, vfio.Stop, 0, false},
	} {
		got, err := c.all.chooseSource(openIn(t, c.state))
		if (err != nil) != c.fails || idOf(got) != c.want {
			t.Errorf("of %v, with a device in %v: %d, %v, want %d", c.all, c.state, idOf(got), err, c.want)
		}
	}
}

// TestSourceRefuses: without a flag no migration begins while one of the devices is in doubt,
// was interrupted and a device does not run, or has ended well and no device runs.
func TestSourceRefuses(t *testing.T) {
	for _, c := range []struct {
		all   journals
		state vfio.State
		want  string // in the refusal, "" for none
	}{
		{journalsAt(handoff.Commit), vfio.Running, "in doubt"},
		{journalsAt(handoff.Commit, handoff.Done), vfio.Stop, "in doubt"},
		{journalsAt(handoff.Open), vfio.StopCopy, "interrupted"},
		{journalsAt(handoff.Open), vfio.Running, ""},
		{journalsAt(handoff.Open, handoff.Done), vfio.Stop, "run at its destination"},
		{journalsAt(handoff.Open, handoff.Done), vfio.Running, ""},
		{journalsAt(handoff.Owner), vfio.Stop, ""},
	} {
		err := c.all.refuseSource(openIn(t, c.state), &State{})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, with a device in %v: %v, want %q", c.all, c.state, err, c.want)
		}
	}
}

// TestSameDevices: a migration of other devices does not continue with these.
func TestSameDevices(t *testing.T) {
	a, b := journal.Device{Name: "a", Address: "vfio:0000:3b:00.1"}, journal.Device{Name: "b"}
	s := &State{Devices: []journal.Device{a, b}}
	for _, c := range []struct {
		recorded []journal.Device
		same     bool
	}{{nil, true}, {[]journal.Device{b, a}, true}, {[]journal.Device{a}, false}, {[]journal.Device{a, {Name: "c"}}, false}} {
		if err := s.sameDevices(&Recorded{Devices: c.recorded}); (err == nil) != c.same {
			t.Errorf("%v: %v", c.recorded, err)
		}
	}
	if err := s.sameDevices(nil); err != nil {
		t.Error(err)
	}
}

// TestAddress: an address is that of the device, and not of the way it is named. A device that
// only this process has has none.
func TestAddress(t *testing.T) {
	t.Chdir("/tmp")
	for url, want := range map[string]string{
		"vfio:0000:ff:00.1": "vfio:0000:ff:00.1", "vfio:FF:00.1": "vfio:0000:ff:00.1",
		"vfio:/dev/vfio/devices/vfio77": "vfio:/dev/vfio/devices/vfio77",
		"sim:mtty":                      "", "sim:mtty?keep=x/../y": "sim:/tmp/y",
		"file:x/../y": "file:/tmp/y", "file:/y?overwrite=1": "file:/y", "fd:7": "",
	} {
		scheme, rest, _ := strings.Cut(url, ":")
		if got := (input.Device{Name: "d", Scheme: scheme, Rest: rest}).Address(); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
}
