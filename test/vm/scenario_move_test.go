package vm

import (
	"testing"

	"github.com/migpipe/migpipe/vfio"
)

// mtty's stream: a header of 24 bytes and 36 per port.
const (
	onePort  = 24 + 36
	twoPorts = 24 + 2*36
)

// testInherited migrates between two devices that VMMs hold: each program gets its device as
// an open fd.
func testInherited(t *testing.T, p pair) {
	from, to := p.source.newMdev(t, 2).open(t), p.destination.newMdev(t, 2).open(t)
	from.setPorts(t, somePorts...)
	p.migrate(t, way{inherited(from), inherited(to)}).checkCommitted(t, twoPorts)
	from.checkState(t, vfio.Stop)
	to.checkState(t, vfio.Running)
	to.checkPorts(t, somePorts...)
}

// testTogether migrates two devices of one VM, of different kinds, at once.
func testTogether(t *testing.T, p pair) {
	from := []*held{p.source.newMdev(t, 2).open(t), p.source.newMdev(t, 1).open(t)}
	to := []*held{p.destination.newMdev(t, 2).open(t), p.destination.newMdev(t, 1).open(t)}
	from[0].setPorts(t, somePorts...)
	from[1].setPorts(t, otherPorts...)
	p.migrate(t,
		way{inherited(from[0]), inherited(to[0])},
		way{inherited(from[1]), inherited(to[1])},
	).checkCommitted(t, twoPorts, onePort)
	for i := range from {
		from[i].checkState(t, vfio.Stop)
		to[i].checkState(t, vfio.Running)
	}
	to[0].checkPorts(t, somePorts...)
	to[1].checkPorts(t, otherPorts...)
}

// testOpened migrates between two devices that the programs open themselves, by each name of
// them in the kernel.
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
	p.migrate(t, way{opened(name(from)), opened(name(to))}).checkCommitted(t, twoPorts)
	// mtty keeps registers and state when it is closed, so the test can read what the
	// programs left. That the programs have closed it shows when the device is removed.
	from.checkWitness(t, vfio.Stop)
	to.checkWitness(t, vfio.Running)
	from.open(t).checkState(t, vfio.Stop)
	h = to.open(t)
	h.checkState(t, vfio.Running)
	h.checkPorts(t, somePorts...)
}
