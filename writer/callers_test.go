package writer

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/sim"
)

// TestMeet: what is found is kept once, behind the record that stands; an ACCEPT of before a
// restart of the host is not made a new one. Of another peer nothing is believed.
func TestMeet(t *testing.T) {
	peer := transport.PeerID{3}
	for _, c := range []struct {
		record   handoff.Record
		rebooted bool
		epoch    uint64
		peer     transport.PeerID
		alarm    bool
		entries  int
	}{
		{handoff.Running, false, 2, peer, true, 2},
		{handoff.Accept, false, 2, peer, true, 2},
		{handoff.Accept, true, 2, peer, true, 1},
		{handoff.Running, true, 2, peer, true, 2},
		{handoff.Running, false, 1, peer, false, 1},
		{handoff.Running, false, 2, transport.PeerID{4}, false, 1},
		{handoff.Ready, false, 2, peer, false, 1},
		{handoff.Lost, false, 2, peer, false, 1},
	} {
		j := lastingJournal{handoff.NewMemory(), c.rebooted}
		j.Append(handoff.Entry{Record: c.record, Attempt: migration.Attempt{Mig: migration.ID{1}, Epoch: 1}, PeerID: peer})
		alarms := 0
		for range 2 {
			checkBothMayRun(j, migration.Attempt{Mig: migration.ID{1}, Epoch: c.epoch}, laneOf{peer: c.peer}, func(migration.Event) { alarms++ })
		}
		for epoch := range uint64(9 * alarms) { // the peer may name what it likes
			checkBothMayRun(j, migration.Attempt{Mig: migration.ID{1}, Epoch: 3 + epoch}, laneOf{peer: c.peer}, func(migration.Event) {})
		}
		if got := len(j.Entries()); (alarms == 2) != c.alarm || got != c.entries || j.Last().Record != c.record {
			t.Errorf("%+v: %d alarms, %d entries, the last %+v", c, alarms, got, j.Last())
		}
	}
}

// TestAlarmIsBounded: a source that asks again and again does not fill the user's screen.
func TestAlarmIsBounded(t *testing.T) {
	raised := 0
	e := newEngine(Options{Observe: func(migration.Event) { raised++ }}, nil)
	for range 1000 {
		e.raiseAlarm(migration.Event{Kind: migration.Alarm})
	}
	if raised != 1 {
		t.Errorf("%d alarms at once", raised)
	}
}

// laneOf is a lane of a peer on which nothing is said.
type laneOf struct {
	transport.Lane
	peer transport.PeerID
}

func (l laneOf) Peer() transport.PeerID      { return l.peer }
func (l laneOf) Is(id transport.PeerID) bool { return l.peer == id }

// TestBothAreToldByAnyMessage: a source that was FORCED is found by the first message of
// its lane, whichever that is.
func TestBothAreToldByAnyMessage(t *testing.T) {
	a := migration.Attempt{Mig: migration.ID{1}, Epoch: 2}
	for _, m := range []wire.Message{&wire.Query{Attempt: a}, &wire.Resume{Attempt: a}, &wire.Hello{Attempt: a}} {
		synctest.Test(t, func(t *testing.T) {
			device, err := sim.OpenURL("mtty")
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			d, l := transport.Pipe()
			defer l.Close()
			j := handoff.NewMemory()
			j.Append(handoff.Entry{Record: handoff.Running, Attempt: migration.Attempt{Mig: a.Mig, Epoch: 1}, Journal: j.ID()})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			go func() { // ends with the destination
				lane, err := d.Dial(ctx)
				if err == nil {
					err = wire.WritePreamble(lane, wire.Preamble{Kind: wire.LaneControl, Mig: a.Mig, Epoch: a.Epoch})
				}
				control := wire.NewControl(lane)
				if err == nil {
					err = control.Send(m)
				}
				for err == nil {
					_, err = control.Receive()
				}
				lane.Close()
			}()
			var alarms []string
			Receive(ctx, l, []Target{{Name: "d", Device: device}}, &Options{
				Journals: func(migration.ID, bool) (handoff.Journal, error) { return j, nil },
				Observe: func(ev migration.Event) {
					if ev.Kind == migration.Alarm {
						alarms = append(alarms, ev.Text)
					}
				},
			})
			if len(alarms) != 1 || !strings.Contains(alarms[0], "this side's record is RUNNING of attempt 1") {
				t.Errorf("after %v: alarms %q", m.Type(), alarms)
			}
			if last := j.Last(); last.Record != handoff.Running || last.Why.Code != transport.CodeBothMayRun {
				t.Errorf("after %v: the record is %+v", m.Type(), last)
			}
		})
	}
}

// TestBusyPeers: every peer has one place, and all together have no more than there are.
func TestBusyPeers(t *testing.T) {
	var g answeringPeers
	if g.any() {
		t.Error("a peer is there already")
	}
	for i := range maxAnswering {
		if peer := (transport.PeerID{byte(i)}); !g.enter(peer) || g.enter(peer) {
			t.Errorf("peer %d did not enter, or twice", i)
		}
	}
	late := transport.PeerID{maxAnswering}
	if g.enter(late) {
		t.Error("one too many has entered")
	}
	g.exit(transport.PeerID{3})
	if !g.enter(late) {
		t.Error("a place that is free is not given")
	}
	g.exit(late)
	for i := range maxAnswering {
		g.exit(transport.PeerID{byte(i)})
	}
	if g.any() {
		t.Error("there is a peer still")
	}
}
