package input

import (
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// IsFD reports whether the URL names an inherited descriptor.
func (d Device) IsFD() bool { return d.Scheme == "fd" || d.Scheme == "fdname" }

// fd is the descriptor that such a URL names.
func (d Device) fd() (int, error) {
	if d.Scheme == "fdname" {
		return namedFD(d.Rest)
	}
	return numberedFD(d.Rest)
}

// openFD takes over an inherited descriptor: of a device, or of a pipe, socket or file that
// carries the stream of a device. The kernel tells which it is. A refused descriptor stays open
// until the program ends.
func openFD(n int, name string, r journal.Role) (vfio.Device, error) {
	switch {
	case vfio.IsDevice(n):
		return vfio.FromFD(n, name)
	case r == journal.Source:
		return file.FromFD(n, name)
	}
	return file.ToFD(n, name)
}

// Descriptors are the uses of descriptors that the command line names.
type Descriptors struct {
	Side
	Devices  []Device
	Quiet    bool // nothing is written to stdout
	Answered bool // stdin has the answers of a VMM
}

// answers reports whether a descriptor has the answers of a VMM.
func (d Descriptors) answers(n int) bool { return d.Answered && n == unix.Stdin }

// CheckDevices refuses descriptors that cannot be devices.
func (d Descriptors) CheckDevices() error {
	names := map[int]string{}
	for _, one := range d.Devices {
		if !one.IsFD() {
			continue
		}
		n, err := one.fd()
		if err != nil {
			return err
		}
		if other, taken := names[n]; taken {
			return ui.Mistakef("", "devices %s and %s are both file descriptor %d", other, one.Name, n)
		}
		names[n] = one.Name
		if err := d.checkDevice(one.Name, n); err != nil {
			return err
		}
	}
	return nil
}

func (d Descriptors) checkDevice(name string, n int) error {
	const hint = "pass the device as another descriptor, as fd:3 and 3<>PATH in a shell"
	switch {
	case n == unix.Stderr:
		return ui.Mistakef(hint, "device %s: fd:2 is stderr, where errors go", name)
	case n == unix.Stdout && (d.Role == journal.Source || !d.Quiet):
		return ui.Mistakef("use --quiet, or "+hint, "device %s: fd:1 is stdout, where events and reports go", name)
	case d.answers(n):
		return ui.Mistakef(hint, "device %s: fd:0 is stdin, by which --commit external is answered", name)
	case !inherited(n):
		return ui.Mistakef(hint, "device %s: no file descriptor %d was passed to %s", name, n, d.Program)
	}
	return nil
}

// inherited reports whether the process was started with the descriptor. The Go runtime opens
// all others with close-on-exec.
func inherited(n int) bool {
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}
