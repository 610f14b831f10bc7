package vm

import (
	"bytes"
	"cmp"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/test/vm/guestapi"
	"github.com/migpipe/migpipe/vfio"
)

// somePorts and otherPorts are states that no device has by itself, for two ports and for
// one.
var somePorts = []port{
	{IER: 0x05, MCR: 0x0b, Scratch: 0x5a, LCR: 0x1b, Divisor: 0x0c27, FIFO: "migrate"},
	{IER: 0x0a, MCR: 0x03, Scratch: 0xc3, LCR: 0x03, Divisor: 0x8001, FIFO: "me"},
}
var otherPorts = []port{
	{IER: 0x01, MCR: 0x08, Scratch: 0x11, LCR: 0x02, Divisor: 0x0101, FIFO: "mine"},
}

// testDevice checks the assumptions of the other scenarios: registers hold written values,
// states move, and both witnesses see it.
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
		// mtty has no open_device: an open resets neither registers nor state.
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

// testConformance runs the conformance suite of all devices against two of the kernel's, by
// each way to open them.
func testConformance(t *testing.T, p pair) {
	p.host.need(t, "vfio.test")
	from, to := p.source.newMdev(t, 2), p.source.newMdev(t, 2)
	t.Run("uuid", func(t *testing.T) { conform(t, p.source, from.uuid, to.uuid) })
	if from.cdev(t) != "" {
		t.Run("cdev", func(t *testing.T) { conform(t, p.source, from.cdev(t), to.cdev(t)) })
	}
}

func conform(t *testing.T, m *machine, from, to string) {
	job := m.start(t, guestapi.Command{
		Argv: []string{"/bin/vfio.test", "-test.v", "-test.run=^TestKernelConformance$"},
		Env:  []string{"MIGPIPE_VFIO_DEVICE=vfio:" + from + ",vfio:" + to},
	})
	r := job.wait(t, 4*callTime)
	if r.Exit != 0 || !strings.Contains(r.Stdout, "--- PASS: TestKernelConformance") {
		t.Error("the suite fails on the kernel's device")
	}
	t.Logf("%d parts passed, %d skipped", strings.Count(r.Stdout, "--- PASS:"), strings.Count(r.Stdout, "--- SKIP:"))
}

var memoryFile = flag.String("memory", "", "where scenario memory leaves its dump, an absolute path")

// A dump begins with the kernel, at its address without KASLR. The files of the initramfs
// follow.
const (
	memoryFrom = 16 << 20
	memorySize = 64 << 20
)

// testMemory dumps memory that is in use. The benchmarks move such a dump too.
func testMemory(t *testing.T, p pair) {
	to := cmp.Or(*memoryFile, filepath.Join(t.TempDir(), "memory.bin"))
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := p.source.openMonitor(t).saveMemory(memoryFrom, memorySize, to); err != nil {
		t.Fatal(err)
	}
	dump, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	empty := 0
	for at := 0; at < len(dump); at += page {
		if bytes.Equal(dump[at:at+page], make([]byte, page)) {
			empty++
		}
	}
	t.Logf("%d MiB, %d %% of the pages are zero", len(dump)>>20, 100*empty*page/len(dump))
	if empty > len(dump)/page/2 || !bytes.Contains(dump, []byte("Linux version ")) {
		t.Error("this is not where the guest's kernel is")
	}
}
