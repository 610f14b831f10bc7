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

// TestCheckBothMayRun checks that the journal stores the finding once, beside the present record.
// An ACCEPT from before a restart of the host stays as it is. Another peer is not believed.
func TestCheckBothMayRun(t *testing.T) {
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
		for epoch := range uint64(9 * alarms) { // the peer may name any attempt
			checkBothMayRun(j, migration.Attempt{Mig: migration.ID{1}, Epoch: 3 + epoch}, laneOf{peer: c.peer}, func(migration.Event) {})
		}
		if got := len(j.Entries()); (alarms == 2) != c.alarm || got != c.entries || j.Last().Record != c.record {
			t.Errorf("%+v: %d alarms, %d entries, the last %+v", c, alarms, got, j.Last())
		}
	}
}

// TestAlarmIsBounded checks that repeated questions of a source raise one alarm.
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

// laneOf is a silent lane of a peer.
type laneOf struct {
	transport.Lane
	peer transport.PeerID
}

func (l laneOf) Peer() transport.PeerID      { return l.peer }
func (l laneOf) Is(id transport.PeerID) bool { return l.peer == id }

// TestAlarmByAnyMessage checks that the first message of a lane, of any type, reveals a source that
// was FORCED.
func TestAlarmByAnyMessage(t *testing.T) {
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

// TestAnsweringPeers checks that every peer has at most one place, and that the places are bounded.
func TestAnsweringPeers(t *testing.T) {
	var g answeringPeers
	if g.any() {
		t.Error("an empty set has a peer")
	}
	for i := range maxAnswering {
		if peer := (transport.PeerID{byte(i)}); !g.enter(peer) || g.enter(peer) {
			t.Errorf("peer %d could not enter, or could twice", i)
		}
	}
	late := transport.PeerID{maxAnswering}
	if g.enter(late) {
		t.Error("a peer has entered although all places are taken")
	}
	g.exit(transport.PeerID{3})
	if !g.enter(late) {
		t.Error("a peer cannot take a free place")
	}
	g.exit(late)
	for i := range maxAnswering {
		g.exit(transport.PeerID{byte(i)})
	}
	if g.any() {
		t.Error("a peer is left")
	}
}
