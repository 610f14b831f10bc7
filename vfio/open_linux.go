package vfio

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/lockfile"
)

// opener opens devices; tests give it a kernel and a tree of their own.
type opener struct {
	kernel
	tree
}

var system = opener{kernel: host{}}

// Open opens the device that a user names: the path of its cdev
// ("/dev/vfio/devices/vfio0", Linux 6.6 and later), its PCI address
// ("0000:3b:00.1") or the UUID of a mediated device. The latter two are opened
// by their cdev if they have one, by their IOMMU group otherwise.
//
// It fails with ErrBusy where somebody else has the device, with ErrNoMigration
// where its driver cannot migrate, and with errors that fs.ErrPermission and
// fs.ErrNotExist match. All of them are of type *OpError, most with a hint.
func Open(name string) (Device, error) {
	d, err := system.openName(name)
	if err != nil {
		return nil, openError(name, err)
	}
	return d, nil
}

// FromFD takes over the fd of a device that somebody else has opened, and bound
// or grouped as it must be; name is what errors call it. The device owns the fd
// from then on and closes it with itself. An fd that FromFD refuses stays the
// caller's, as it was.
func FromFD(fd int, name string) (Device, error) {
	d, err := system.adopt(fd, name)
	if err != nil {
		return nil, openError(name, err)
	}
	unix.CloseOnExec(fd)
	return d, nil
}

// IsDevice reports whether fd is that of a VFIO device, whether it can migrate
// or not, and be it a cdev that is not ready for use. It has no effect on fds of
// any other kind.
func IsDevice(fd int) bool { return system.isDevice(fd) }

func (o opener) isDevice(fd int) bool {
	err := o.getInfo(fd)
	return err == nil || o.unbound(fd, err)
}

// unbound reports whether fd is a cdev that is not bound: it answers every ioctl
// but the bind with EINVAL then, as err is. Other character devices say EINVAL
// too (/dev/kvm).
func (o opener) unbound(fd int, err error) bool { return isAny(err, unix.EINVAL) && o.isCdev(fd) }

func (o opener) getInfo(fd int) error {
	_, err := o.ioctl(fd, reqDeviceGetInfo, &deviceInfo{argsz: 24})
	return err
}

func (o opener) adopt(fd int, name string) (*device, error) {
	dir, _ := o.ofFD(fd) // an older kernel does not say: what sysfs knows stays unknown
	d, err := newDevice(o.kernel, fd, name, o.describe(dir))
	if errors.Is(err, ErrNoMigration) && o.unbound(fd, o.getInfo(fd)) {
		return nil, hinted(errUnbound, "bind it (VFIO_DEVICE_BIND_IOMMUFD) before it is handed over, "+
			"or name the device by its path, which opens and binds it")
	}
	return d, err
}

var errUnbound = fmt.Errorf("it is not bound to an iommufd: %w", unix.EINVAL)

func (o opener) openName(name string) (*device, error) {
	a, err := parseAddress(name)
	if err != nil {
		return nil, err
	}
	if a.path != "" {
		if err := o.checkNode(a.path); err != nil {
			return nil, err
		}
		return o.openCdev(a.path, name, "")
	}
	dir, err := o.find(a)
	if err != nil {
		return nil, hinted(err, "see /sys/bus/pci/devices and /sys/bus/mdev/devices for what there is")
	}
	d, err := o.openFound(dir, name)
	if err != nil {
		return nil, hinted(err, o.setupHint(a, dir))
	}
	return d, nil
}

func (o opener) openFound(dir, name string) (*device, error) {
	if node := o.cdev(dir); node != "" {
		return o.openCdev(node, name, dir)
	}
	return o.openGroup(dir, name)
}

// openCdev opens and binds a cdev. Several processes can open one, a single
// one can bind it.
func (o opener) openCdev(node, name, dir string) (*device, error) {
	fds := fdSet{kernel: o.kernel}
	defer fds.closeAll()
	fd, err := fds.open(node)
	if err != nil {
		return nil, usedBy(node, err)
	}
	iommufd, err := fds.open(o.at("dev/iommu"))
	if isAny(err, unix.ENOENT) {
		return nil, hinted(err, "this kernel has no iommufd: name the device by its PCI address or UUID to use its group")
	}
	if err != nil {
		return nil, err
	}
	if dir == "" {
		dir, _ = o.ofFD(fd)
	}
	free, err := claim(dir, name)
	if err != nil {
		return nil, err
	}
	_, err = o.ioctl(fd, reqDeviceBindIOMMUFD, &bindIOMMUFD{argsz: 16, iommufd: int32(iommufd)})
	if err != nil {
		free()
		return nil, usedBy(node, bindError(err))
	}
	d, err := fds.keep(newDevice(o.kernel, fd, name, o.describe(dir), iommufd))
	if err != nil {
		free()
		return nil, err
	}
	d.release = free
	return d, nil
}

// usedBy names the process that has a node, where that is why it cannot be used and this user
// may look at that process.
func usedBy(node string, err error) error {
	if !errors.Is(err, ErrBusy) && !isAny(err, unix.EBUSY) {
		return err
	}
	if pid := lockfile.Holder(node); pid != 0 {
		return hinted(fmt.Errorf("%w: process %d has it open", err, pid), fmt.Sprintf("end process %d first, or have its VMM lend the device as fd:N", pid))
	}
	return err
}

func bindError(err error) error {
	switch {
	case isAny(err, unix.EINVAL): // the answer to a second bind
		return fmt.Errorf("%w: bind to iommufd: %w", ErrBusy, err)
	case isAny(err, unix.ENOTTY):
		return hinted(fmt.Errorf("bind to iommufd: %w", err), "want a path below /dev/vfio/devices; "+
			"name a device without one by its PCI address or UUID")
	}
	return fmt.Errorf("bind to iommufd: %w", err)
}

// openGroup opens a device through its IOMMU group and a container, the way of kernels without
// cdevs.
func (o opener) openGroup(dir, name string) (*device, error) {
	if err := o.checkIOMMU(dir); err != nil {
		return nil, err
	}
	node, err := o.group(dir)
	if err != nil {
		return nil, err
	}
	free, err := claim(dir, name)
	if err != nil {
		return nil, err
	}
	g, err := o.useGroup(node)
	if err != nil {
		free()
		return nil, err
	}
	release := func() {
		g.release()
		free()
	}
	fd, err := o.ioctl(g.fd, reqGroupGetDeviceFD, cString(filepath.Base(dir)))
	if err != nil {
		release()
		return nil, fmt.Errorf("%s: get device: %w", node, err)
	}
	d, err := newDevice(o.kernel, fd, name, o.describe(dir))
	if err != nil {
		o.close(fd)
		release()
		return nil, err
	}
	d.release = release
	return d, nil
}

// join puts a group into a container and gives the container an IOMMU.
func (o opener) join(group, container int) error {
	if v, err := o.ioctl(container, reqGetAPIVersion, nil); err != nil || v != apiVersion {
		return fmt.Errorf("container has API version %d, want %d: %w", v, apiVersion, errors.Join(err, errors.ErrUnsupported))
	}
	status := groupStatus{argsz: 8}
	if _, err := o.ioctl(group, reqGroupGetStatus, &status); err != nil {
		return fmt.Errorf("group status: %w", err)
	}
	if status.flags&groupViable == 0 {
		return hinted(errors.New("group is not viable"),
			"bind every device of the IOMMU group to a VFIO driver or to none")
	}
	fd := int32(container)
	if _, err := o.ioctl(group, reqGroupSetContainer, &fd); err != nil {
		return fmt.Errorf("set container: %w", err)
	}
	_, err := o.ioctl(container, reqSetIOMMU, iommuType1v2)
	if err != nil {
		_, err = o.ioctl(container, reqSetIOMMU, iommuType1)
	}
	if err != nil {
		return fmt.Errorf("set IOMMU: %w", err)
	}
	return nil
}

// cString gives the address of a NUL-terminated copy of s.
func cString(s string) *byte { return &append([]byte(s), 0)[0] }

// fdSet closes what was opened on a way that did not lead to the end.
type fdSet struct {
	kernel
	fds []int
}

func (s *fdSet) open(path string) (int, error) {
	fd, err := s.kernel.open(path)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	s.add(fd)
	return fd, nil
}

func (s *fdSet) add(fd int) { s.fds = append(s.fds, fd) }

// keep hands the fds over to the device, if it came to be.
func (s *fdSet) keep(d *device, err error) (*device, error) {
	if err == nil {
		s.fds = nil
	}
	return d, err
}

func (s *fdSet) closeAll() {
	for _, fd := range s.fds {
		s.kernel.close(fd)
	}
}

// hintError carries the next step to take up to the error that the user sees.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

// hinted adds a hint, unless err has one or there is none.
func hinted(err error, hint string) error {
	if h := (*hintError)(nil); hint == "" || errors.As(err, &h) {
		return err
	}
	return &hintError{err, hint}
}

// setupHint says what the host lacks for a device that could not be opened.
func (o opener) setupHint(a address, dir string) string {
	var todo []string
	if hint := bindHint(a, boundDriver(dir)); hint != "" {
		todo = append(todo, hint)
	}
	if _, err := o.group(dir); err != nil && a.pci != "" {
		todo = append(todo, "it has no IOMMU group: enable the IOMMU in the firmware and on the kernel's command line (intel_iommu=on, amd_iommu=on)")
	}
	return strings.Join(todo, "; ")
}

// bindHint says what to do about a PCI function that could not be opened while
// it has the given driver.
func bindHint(a address, driver string) string {
	switch {
	case a.pci == "":
		return ""
	case driver == "":
		return "no driver has it: bind it to its VFIO driver, as mlx5_vfio_pci or hisi_acc_vfio_pci"
	case driver == "vfio-pci":
		return "vfio-pci cannot migrate: bind it to its own VFIO driver, as mlx5_vfio_pci or hisi_acc_vfio_pci"
	case !strings.Contains(driver, "vfio"):
		return "driver " + driver + " has it: bind it to its VFIO driver"
	}
	return ""
}

// openError is the one error that leaves this file.
func openError(name string, err error) error {
	e := &OpError{Op: "open", Device: name, Offset: -1, Err: err}
	if h := (*hintError)(nil); errors.As(err, &h) {
		e.Hint = h.hint
	}
	if isAny(err, unix.EBUSY) {
		e.Kind = ErrBusy
	}
	switch {
	case errors.Is(e, ErrBusy) && e.Hint != "":
	case errors.Is(e, ErrBusy):
		e.Hint = "another process, a VMM perhaps, has it open"
	case isAny(err, unix.EACCES, unix.EPERM):
		e.Hint = "run as root, or own the device's node under /dev/vfio"
	}
	return e
}
