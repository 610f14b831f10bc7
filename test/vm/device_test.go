package vm

import (
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/migpipe/migpipe/test/vm/guestapi"
	"github.com/migpipe/migpipe/vfio"
)

// mdev is a mediated device in a guest, made for one scenario.
type mdev struct {
	m    *machine
	uuid string
}

var lastUUID atomic.Uint32

// newMdev makes an mtty with one or two ports. The end of the scenario removes it. The
// kernel does that only once no process has it open.
func (m *machine) newMdev(t *testing.T, ports int) *mdev {
	t.Helper()
	d := &mdev{m, fmt.Sprintf("%08x-0000-4000-8000-000000000000", lastUUID.Add(1))}
	m.writeFile(t, fmt.Sprintf("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-%d/create", ports), d.uuid)
	t.Cleanup(func() { d.remove(t) })
	return d
}

func (d *mdev) remove(t *testing.T) {
	f := guestapi.File{Path: d.sysfs() + "/remove", Data: []byte("1")}
	if err := d.m.call("WriteFile", f, new(struct{})); err != nil {
		t.Errorf("remove mdev %s, is it released? %v", d.uuid, err)
	}
}

func (d *mdev) sysfs() string { return "/sys/bus/mdev/devices/" + d.uuid }

// cdev returns the device's /dev/vfio/devices/vfioN, "" if the kernel has none. sysfs names
// vfioN even then, but has no device number for it.
func (d *mdev) cdev(t *testing.T) string {
	t.Helper()
	found := d.m.glob(t, d.sysfs()+"/vfio-dev/vfio*/dev")
	if len(found) == 0 {
		return ""
	}
	return "/dev/vfio/devices/" + path.Base(path.Dir(found[0]))
}

// checkWitness compares the device's state with debugfs, on a kernel that has it. That
// works while no process has the device open.
func (d *mdev) checkWitness(t *testing.T, want vfio.State) {
	t.Helper()
	if d.cdev(t) == "" {
		return // Debian's kernel has neither
	}
	file := "/sys/kernel/debug/vfio/" + d.uuid + "/migration/state"
	if got := strings.TrimSpace(d.m.readFile(t, file)); got != want.String() {
		t.Errorf("%s: debugfs shows %s, want %v", d.m.name, got, want)
	}
}

// held is a device that the guest program holds open as a VMM would.
type held struct {
	*mdev
	handle int
	closed bool
}

// open opens the device, by cdev if the kernel has them, else by its group.
func (d *mdev) open(t *testing.T) *held {
	t.Helper()
	if cdev := d.cdev(t); cdev != "" {
		return d.openAs(t, cdev)
	}
	return d.openAs(t, d.uuid)
}

func (d *mdev) openAs(t *testing.T, name string) *held {
	t.Helper()
	h := &held{mdev: d}
	d.m.must(t, "Open", name, &h.handle)
	t.Cleanup(func() { h.close(t) })
	return h
}

// takeFrom takes the open device over from a program that has it.
func (d *mdev) takeFrom(t *testing.T, pid int) *held {
	t.Helper()
	h := &held{mdev: d}
	d.m.must(t, "Take", pid, &h.handle)
	t.Cleanup(func() { h.close(t) })
	return h
}

func (h *held) close(t *testing.T) {
	t.Helper()
	if h.closed {
		return
	}
	h.closed = true
	if err := h.m.call("Close", h.handle, new(struct{})); err != nil {
		t.Error(err)
	}
}

func (h *held) state(t *testing.T) vfio.State {
	t.Helper()
	var state vfio.State
	h.m.must(t, "State", h.handle, &state)
	return state
}

// checkState compares the device's state on the held fd with the state seen from outside.
func (h *held) checkState(t *testing.T, want vfio.State) {
	t.Helper()
	if got := h.state(t); got != want {
		t.Errorf("%s: device is in %v, want %v", h.m.name, got, want)
	}
	h.checkWitness(t, want)
}

func (h *held) setState(t *testing.T, to vfio.State) {
	t.Helper()
	h.m.must(t, "SetState", guestapi.SetState{Device: h.handle, State: uint32(to)}, new(struct{}))
}

func (h *held) reset(t *testing.T) {
	t.Helper()
	h.m.must(t, "Reset", h.handle, new(struct{}))
}

// Registers of an 8250 port; BAR n is port n.
const (
	regData    = 0 // FIFO, or divisor low while DLAB
	regIER     = 1 // interrupt enable, or divisor high while DLAB
	regFCR     = 2
	regLCR     = 3
	regMCR     = 4
	regLSR     = 5
	regScratch = 7

	fifoOn    = 0x01 // in FCR
	dlab      = 0x80 // in LCR: the divisor is accessible
	dataReady = 0x01 // in LSR
	fifoSize  = 16
)

// port is a state in which a guest's driver could have left a serial port.
type port struct {
	IER, MCR, Scratch byte
	LCR               byte // without DLAB, which setPorts leaves set
	Divisor           uint16
	FIFO              string
}

func (h *held) out(t *testing.T, bar uint32, register uint64, value byte) {
	t.Helper()
	h.m.must(t, "WriteRegion", guestapi.Region{Device: h.handle, Index: bar, Offset: register, Data: []byte{value}}, new(struct{}))
}

func (h *held) in(t *testing.T, bar uint32, register uint64) byte {
	t.Helper()
	var b []byte
	h.m.must(t, "ReadRegion", guestapi.Region{Device: h.handle, Index: bar, Offset: register, N: 1}, &b)
	return b[0]
}

// setPorts programs the device. It ends with DLAB set and the divisor written: mtty
// clears the divisor whenever DLAB is set, so only a reader that finds DLAB set can read
// it.
func (h *held) setPorts(t *testing.T, ports ...port) {
	t.Helper()
	for i, p := range ports {
		bar := uint32(i)
		h.out(t, bar, regLCR, 0)
		h.out(t, bar, regFCR, fifoOn)
		h.out(t, bar, regIER, p.IER)
		h.out(t, bar, regMCR, p.MCR)
		h.out(t, bar, regScratch, p.Scratch)
		for _, b := range []byte(p.FIFO) {
			h.out(t, bar, regData, b) // mtty loops sent bytes back to its receiver
		}
		h.out(t, bar, regLCR, p.LCR|dlab)
		h.out(t, bar, regData, byte(p.Divisor))
		h.out(t, bar, regIER, byte(p.Divisor>>8))
	}
}

// checkPorts reads the registers back. This empties the FIFOs and clears DLAB.
func (h *held) checkPorts(t *testing.T, want ...port) {
	t.Helper()
	for i, w := range want {
		if got := h.readPort(t, uint32(i)); got != w {
			t.Errorf("%s: port %d holds %+v, want %+v", h.m.name, i, got, w)
		}
	}
}

// checkLatches compares the registers that reads do not change: the divisor, as long as DLAB
// is set, and the scratch register.
func (h *held) checkLatches(t *testing.T, want ...port) {
	t.Helper()
	for i, w := range want {
		bar := uint32(i)
		divisor := uint16(h.in(t, bar, regData)) | uint16(h.in(t, bar, regIER))<<8
		if scratch := h.in(t, bar, regScratch); divisor != w.Divisor || scratch != w.Scratch {
			t.Errorf("%s: port %d: divisor %#x, scratch %#x, want %#x, %#x", h.m.name, i, divisor, scratch, w.Divisor, w.Scratch)
		}
	}
}

func (h *held) readPort(t *testing.T, bar uint32) port {
	t.Helper()
	lcr := h.in(t, bar, regLCR)
	if lcr&dlab == 0 {
		t.Errorf("%s: port %d: LCR is %#x, DLAB is lost", h.m.name, bar, lcr)
	}
	p := port{LCR: lcr &^ dlab}
	p.Divisor = uint16(h.in(t, bar, regData)) | uint16(h.in(t, bar, regIER))<<8
	h.out(t, bar, regLCR, p.LCR)
	p.IER, p.MCR, p.Scratch = h.in(t, bar, regIER), h.in(t, bar, regMCR), h.in(t, bar, regScratch)
	var fifo []byte
	for h.in(t, bar, regLSR)&dataReady != 0 && len(fifo) < fifoSize {
		fifo = append(fifo, h.in(t, bar, regData))
	}
	p.FIFO = string(fifo)
	return p
}
