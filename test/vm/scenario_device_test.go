package vm

import (
	"testing"

	"github.com/migpipe/migpipe/vfio"
)

// somePorts and otherPorts are states that no device has by itself, for two
// ports and for one.
var somePorts = []port{
	{IER: 0x05, MCR: 0x0b, Scratch: 0x5a, LCR: 0x1b, Divisor: 0x0c27, FIFO: "migrate"},
	{IER: 0x0a, MCR: 0x03, Scratch: 0xc3, LCR: 0x03, Divisor: 0x8001, FIFO: "me"},
}
var otherPorts = []port{
	{IER: 0x01, MCR: 0x08, Scratch: 0x11, LCR: 0x02, Divisor: 0x0101, FIFO: "mine"},
}

// testDevice checks the ground that the other scenarios stand on: registers
// hold what is written, states move, and both witnesses see it.
func testDevice(t *testing.T, p pair) {
	d := p.source.newMdev(t, 2)
	t.Run("group", func(t *testing.T) { tryDevice(t, d.openAs(t, d.uuid)) })
	if cdev := d.cdev(t); cdev != "" {
		t.Run("cdev", func(t *testing.T) { tryDevice(t, d.openAs(t, cdev)) })
	}
	t.Run("reopened", func(t *testing.T) {
		h := d.open(t)
		h.setPorts(t, somePorts...)
		h.setState(t, vfio.Stop)
		h.close(t)
		// mtty has no open_device: neither registers nor state start afresh.
		h = d.open(t)
		h.checkState(t, vfio.Stop)
		h.setState(t, vfio.Running)
		h.checkPorts(t, somePorts...)
	})
}

func tryDevice(t *testing.T, h *held) {
	h.checkState(t, vfio.Running)
	h.setPorts(t, somePorts...)
	h.setState(t, vfio.PreCopy)
	h.checkState(t, vfio.PreCopy)
	h.reset(t)
	h.checkState(t, vfio.Running)
	h.checkPorts(t, somePorts...)
}
