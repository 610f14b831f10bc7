package vfio

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/lockfile"
)

// opener opens devices; tests give it a kernel and a tree of their own.
type opener struct {
	kernel
	tree
	owned *owned
}

var system = opener{kernel: host{}, owned: newOwned()}

// Open opens the device that a user names: the path of its cdev
// ("/dev/vfio/devices/vfio0", Linux 6.6 and later), its PCI address
// ("0000:3b:00.1") or the UUID of a mediated device. The latter two are opened
// by their cdev if they have one, by their IOMMU group otherwise. Devices of one
// group share it: it is closed with the last of them.
//
// It fails with ErrBusy where another process has the device, or this process has it
// open already, with ErrNoMigration where its driver cannot migrate, and with errors
// that fs.ErrPermission and fs.ErrNotExist match. All of them are of type *OpError,
// most with a hint.
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
	release, err := o.owned.claim(dir, name)
	if err != nil {
		return nil, err
	}
	d, err := newDevice(o.kernel, fd, name, o.describe(dir), release)
	if err != nil {
		release()
	}
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
		return o.openCdev(a.path, name, o.ofPath(a.path))
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

// own makes name the one owner of the device in dir, and gets its fd. What the fd needs is
// undone when this fails, and otherwise when the device has closed its fd.
func (o opener) own(dir, name string, get func(needs *undo) (fd int, err error)) (d *device, err error) {
	release, err := o.owned.claim(dir, name)
	if err != nil {
		return nil, err
	}
	needs := undo{release}
	defer func() {
		if err != nil {
			needs.run()
		}
	}()
	fd, err := get(&needs)
	if err != nil {
		return nil, err
	}
	if d, err = newDevice(o.kernel, fd, name, o.describe(dir), needs.run); err != nil {
		o.close(fd)
	}
	return d, err
}

// undo closes what was opened, the last first.
type undo []func()

func (u undo) run() {
	for _, f := range slices.Backward(u) {
		f()
	}
}

// openCdev opens and binds a cdev. Several processes can open one, a single
// one can bind it.
func (o opener) openCdev(node, name, dir string) (*device, error) {
	return o.own(dir, name, func(needs *undo) (int, error) {
		fd, err := o.openNode(node)
		if err != nil {
			return -1, o.usedBy(err, dir, node)
		}
		iommufd, err := o.bind(fd)
		if err != nil {
			o.close(fd)
			return -1, o.usedBy(err, dir, node)
		}
		*needs = append(*needs, func() { o.close(iommufd) })
		return fd, nil
	})
}

// bind binds a cdev to an iommufd of its own.
func (o opener) bind(fd int) (iommufd int, err error) {
	iommufd, err = o.openNode(o.at("dev/iommu"))
	if isAny(err, unix.ENOENT) {
		return -1, hinted(err, "this kernel has no iommufd: name the device by its PCI address or UUID to use its group")
	}
	if err != nil {
		return -1, err
	}
	_, err = o.ioctl(fd, reqDeviceBindIOMMUFD, &bindIOMMUFD{argsz: 16, iommufd: int32(iommufd)})
	if err == nil {
		return iommufd, nil
	}
	o.close(iommufd)
	switch err = fmt.Errorf("bind to iommufd: %w", err); {
	case isAny(err, unix.EINVAL): // the answer to a second bind
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	case isAny(err, unix.ENOTTY):
		err = hinted(err, "want a path below /dev/vfio/devices; name a device without one by its PCI address or UUID")
	}
	return -1, err
}

// openNode opens a node, and names it where that fails.
func (o opener) openNode(path string) (int, error) {
	fd, err := o.open(path)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, nil
}

// usedBy names the process that keeps a device from being used, if that is why, and this user
// may look at that process. It has the device's node open, or another one of the same group:
// the kernel lets a group be used by its own node or by cdevs, and by one process.
func (o opener) usedBy(err error, dir, node string) error {
	if !errors.Is(err, ErrBusy) && !isAny(err, unix.EBUSY) {
		return err
	}
	nodes := append([]string{node}, o.groupNodes(dir)...)
	holders := lockfile.Holders(nodes...)
	for _, node := range nodes {
		if pid := holders[node]; pid != 0 {
			return hinted(fmt.Errorf("%w: process %d has %s open", err, pid, node),
				fmt.Sprintf("end process %d first, or have its VMM lend the device as fd:N", pid))
		}
	}
	return err
}

// openGroup opens a device through its IOMMU group, the way of kernels without cdevs.
func (o opener) openGroup(dir, name string) (*device, error) {
	node, err := o.group(dir)
	if err != nil {
		return nil, err
	}
	return o.own(dir, name, func(needs *undo) (int, error) {
		g, err := o.owned.enter(node, func() (*group, error) { return o.newGroup(node) })
		if err != nil {
			return -1, o.usedBy(err, dir, node)
		}
		*needs = append(*needs, func() { o.owned.leave(o.kernel, node) })
		fd, err := o.ioctl(g.fd, reqGroupGetDeviceFD, cString(filepath.Base(dir)))
		if err != nil {
			return -1, fmt.Errorf("%s: get device: %w", node, err)
		}
		return fd, nil
	})
}

// newGroup opens a group and puts it into a container.
func (o opener) newGroup(node string) (*group, error) {
	fd, err := o.openNode(node)
	if err != nil {
		return nil, err
	}
	container, err := o.openNode(o.at("dev/vfio/vfio"))
	if err != nil {
		o.close(fd)
		return nil, err
	}
	if err := o.join(fd, container); err != nil {
		o.close(fd)
		o.close(container)
		return nil, fmt.Errorf("%s: %w", node, err)
	}
	return &group{fd: fd, container: container}, nil
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

// hintError carries the next step to take up to the error that the user sees.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

// hinted adds a hint, unless err has one or there is none.
func hinted(err error, hint string) error {
	if _, has := errors.AsType[*hintError](err); has || hint == "" {
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
	if h, ok := errors.AsType[*hintError](err); ok {
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

// address names a device: exactly one field is set.
type address struct {
	path string // of a device's cdev, absolute and clean
	pci  string // "0000:3b:00.1", lower case, with the domain
	mdev string // a UUID, lower case
}

var (
	pciPattern  = regexp.MustCompile(`^([0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// CheckName tells whether [Open] understands a name, without looking for the
// device.
func CheckName(name string) error {
	_, err := parseAddress(name)
	return err
}

// Address is the address of a device that [Open] would open by the name: its PCI address, or
// the UUID of a mediated device. The path of a cdev is looked up in sysfs, since its number
// changes from one binding to the next. Where the kernel does not know the path, that is the
// address. Address opens nothing.
func Address(name string) (string, error) { return system.addressOf(name) }

func (o opener) addressOf(name string) (string, error) {
	a, err := parseAddress(name)
	if err != nil || a.path == "" {
		return a.pci + a.mdev, err
	}
	found, err := parseAddress(path.Base(o.ofPath(a.path)))
	if err != nil || found.path != "" {
		return a.path, nil
	}
	return found.pci + found.mdev, nil
}

// parseAddress tells the three ways to name a device apart. A PCI address may
// lack its domain, 0000.
func parseAddress(s string) (address, error) {
	low := strings.ToLower(s)
	switch {
	case strings.HasPrefix(s, "/") && !strings.ContainsRune(s, 0):
		return address{path: path.Clean(s)}, nil
	case uuidPattern.MatchString(low):
		return address{mdev: low}, nil
	case pciPattern.MatchString(low):
		if strings.Count(low, ":") == 1 {
			low = "0000:" + low
		}
		return address{pci: low}, nil
	}
	return address{}, fmt.Errorf("%.80q is no device: want a path as /dev/vfio/devices/vfio0, "+
		"a PCI address as 0000:3b:00.1, or the UUID of a mediated device", s)
}
