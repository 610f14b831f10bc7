package cli

import (
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// isFD says that a URL names an inherited descriptor.
func (d device) isFD() bool { return d.scheme == "fd" || d.scheme == "fdname" }

// fd is the descriptor that such a URL names.
func (d device) fd() (int, error) {
	if d.scheme == "fdname" {
		return namedFD(d.rest)
	}
	return numberedFD(d.rest)
}

// openFD takes over an inherited descriptor: of a device if the kernel says so,
// else of a pipe, socket or file that holds or takes the device's stream. One
// that is refused stays open, as the user gave it, until the program ends.
func openFD(n int, name string, r role) (vfio.Device, error) {
	switch {
	case vfio.IsDevice(n):
		return vfio.FromFD(n, name)
	case r == source:
		return file.FromFD(n, name)
	}
	return file.ToFD(n, name)
}

// checkFDs finds descriptors that are not the user's to give.
func (c *common) checkFDs(specs []device) error {
	names := map[int]string{}
	for _, d := range specs {
		if !d.isFD() {
			continue
		}
		n, err := d.fd()
		if err != nil {
			return err
		}
		if other, taken := names[n]; taken {
			return mistakef("", "devices %s and %s are both file descriptor %d", other, d.name, n)
		}
		names[n] = d.name
		if err := c.checkFD(d.name, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *common) checkFD(name string, n int) error {
	const hint = "pass the device as another descriptor, as fd:3 and 3<>PATH in a shell"
	switch {
	case n == unix.Stderr:
		return mistakef(hint, "device %s: fd:2 is stderr, where errors go", name)
	case n == unix.Stdout && (c.role == source || !c.quiet):
		return mistakef("use --quiet, or "+hint, "device %s: fd:1 is stdout, where events and reports go", name)
	case c.owner.owns(n):
		return mistakef(hint, "device %s: fd:0 is stdin, by which --commit external is answered", name)
	case !inherited(n):
		return mistakef(hint, "device %s: no file descriptor %d was passed to %s", name, n, c.program)
	}
	return nil
}

// inherited tells a descriptor that this process was started with from those
// that the Go runtime has opened since: they are all close-on-exec.
func inherited(n int) bool {
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}
