package vm

import (
	"testing"

	"github.com/migpipe/migpipe/vfio"
)

// mtty's stream: a header of 24 bytes and 36 per port.
const twoPorts = 24 + 2*36

// testInherited migrates between two devices that VMMs hold: each program gets
// its device as an open fd.
func testInherited(t *testing.T, p pair) {
	from, to := p.source.newMdev(t, 2).open(t), p.destination.newMdev(t, 2).open(t)
	from.setPorts(t, somePorts...)
	p.migrate(t, inherited(from), inherited(to)).checkCommitted(t, twoPorts)
	from.checkState(t, vfio.Stop)
	to.checkState(t, vfio.Running)
	to.checkPorts(t, somePorts...)
}

// testOpened migrates between two devices that the programs open themselves,
// by each name that the kernel has for them.
func testOpened(t *testing.T, p pair) {
	t.Run("uuid", func(t *testing.T) {
		p.moveOpened(t, func(d *mdev) string { return d.uuid })
	})
	if p.source.newMdev(t, 2).cdev(t) == "" {
		return
	}
	t.Run("cdev", func(t *testing.T) {
		p.moveOpened(t, func(d *mdev) string { return d.cdev(t) })
	})
}

func (p pair) moveOpened(t *testing.T, name func(*mdev) string) {
	from, to := p.source.newMdev(t, 2), p.destination.newMdev(t, 2)
	h := from.open(t)
	h.setPorts(t, somePorts...)
	h.close(t)
	p.migrate(t, opened(name(from)), opened(name(to))).checkCommitted(t, twoPorts)
	// mtty keeps registers and state when it is closed, so that what the
	// programs left can be looked at. That they let go of it shows when the
	// device is removed.
	from.checkWitness(t, vfio.Stop)
	to.checkWitness(t, vfio.Running)
	from.open(t).checkState(t, vfio.Stop)
	h = to.open(t)
	h.checkState(t, vfio.Running)
	h.checkPorts(t, somePorts...)
}
