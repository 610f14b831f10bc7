package vm

import (
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// Exit codes of the programs.
const (
	exitDevice       = 3
	exitIncompatible = 7
	exitCancelled    = 9
	exitTimeout      = 10
	exitInDoubt      = 11
)

// testRefused sends two ports to a device that has one: its driver refuses the header. The
// source runs on, and the destination does not change.
func testRefused(t *testing.T, p pair) {
	from, to := p.source.newMdev(t, 2).open(t), p.destination.newMdev(t, 1).open(t)
	from.setPorts(t, somePorts...)
	to.setPorts(t, otherPorts...)
	e := p.migrate(t, way{inherited(from), inherited(to)}).checkAborted(t)
	if e.Exit != exitIncompatible {
		t.Errorf("mig-send ends with %d, want %d", e.Exit, exitIncompatible)
	}
	from.checkState(t, vfio.Running)
	from.checkPorts(t, somePorts...)
	to.checkState(t, vfio.Running)
	to.checkPorts(t, otherPorts...)
}

// longCable is so long that the test surely catches a state that lasts a round trip.
const longCable = 300 * time.Millisecond

// testCancel interrupts mig-send in both states in which the source can be cancelled.
func testCancel(t *testing.T, p pair) {
	for _, state := range []vfio.State{vfio.PreCopy, vfio.StopCopy} {
		t.Run(state.String(), func(t *testing.T) {
			from, to := p.source.newMdev(t, 2).open(t), p.destination.newMdev(t, 2).open(t)
			from.setPorts(t, somePorts...)
			p.cable.slow(t, longCable)
			m := p.migrate(t, way{inherited(from), inherited(to)})
			from.awaitState(t, state)
			m.send.signal(t, syscall.SIGINT)
			begin := time.Now()
			from.awaitState(t, vfio.Running)
			if took := time.Since(begin); took > time.Second {
				t.Errorf("the source runs again after %v, want 1s", took)
			}
			if e := m.checkAborted(t); e.Exit != exitCancelled {
				t.Errorf("mig-send ends with %d, want %d", e.Exit, exitCancelled)
			}
			from.checkState(t, vfio.Running)
			from.checkPorts(t, somePorts...)
			to.checkState(t, vfio.Running)
		})
	}
}

// testLimit demands a downtime that is impossible over this cable. The guest is never paused
// for it: the device stays in PRE_COPY, and runs on.
func testLimit(t *testing.T, p pair) {
	from, to := p.source.newMdev(t, 2).open(t), p.destination.newMdev(t, 2).open(t)
	from.setPorts(t, somePorts...)
	p.cable.slow(t, longCable)
	recv, listening := p.listen(t, inherited(to))
	m := p.sendWith(t, recv, listening, []string{"--downtime-target", "300ms", "--max-precopy", "2s"}, inherited(from))
	e := m.checkAborted(t)
	if e.Exit != exitTimeout || e.DowntimeMS != 0 {
		t.Errorf("mig-send ends with %d after a downtime of %v ms, want %d and none", e.Exit, e.DowntimeMS, exitTimeout)
	}
	from.checkState(t, vfio.Running)
	from.checkPorts(t, somePorts...)
	to.checkState(t, vfio.Running)
}

// testReset resets the source device during a migration, as a guest's driver or the kernel
// may at any time. The session is lost and the migration with it; the device runs.
func testReset(t *testing.T, p pair) {
	from, to := p.source.newMdev(t, 2).open(t), p.destination.newMdev(t, 2).open(t)
	from.setPorts(t, somePorts...)
	p.cable.slow(t, longCable)
	m := p.migrate(t, way{inherited(from), inherited(to)})
	from.awaitState(t, vfio.PreCopy)
	from.reset(t)
	if e := m.checkAborted(t); e.Exit != exitDevice {
		t.Errorf("mig-send ends with %d, want %d", e.Exit, exitDevice)
	}
	from.checkState(t, vfio.Running)
	from.checkPorts(t, somePorts...)
	to.checkState(t, vfio.Running)
}

// awaitState waits until the device is in a state, looking at the held fd.
func (h *held) awaitState(t *testing.T, want vfio.State) {
	t.Helper()
	for deadline := time.Now().Add(callTime); h.state(t) != want; {
		if time.Now().After(deadline) {
			t.Fatalf("%s: device is in %v, not in %v within %v", h.m.name, h.state(t), want, callTime)
		}
		time.Sleep(10 * time.Millisecond) // the guest needs its cores for the awaited change
	}
}
