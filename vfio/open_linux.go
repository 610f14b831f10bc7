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

// opener opens devices. Tests use a scripted kernel and a tree of their own.
type opener struct {
	kernel
	tree
	owned *owned
}

var system = opener{kernel: host{}, owned: newOwned()}

// Open opens a device by name. The name is the path of its cdev
// ("/dev/vfio/devices/vfio0", Linux 6.6 and later), its PCI address
// ("0000:3b:00.1") or the UUID of a mediated device. Open uses the cdev of a
// device that has one, and otherwise its IOMMU group. Devices of one group share
// it: it is closed with the last of them.
//
// Errors are of type *OpError, most with a hint. Open fails with
//   - ErrBusy if another process has the device, or this process has it open already;
//   - ErrNoMigration if its driver cannot migrate;
//   - errors that match fs.ErrPermission or fs.ErrNotExist.
func Open(name string) (Device, error) {
	d, err := system.openName(name)
	if err != nil {
		return nil, openError(name, err)
	}
	return d, nil
}

// FromFD makes a device of an fd that the caller has opened and bound to an
// iommufd or a group's container. name is for errors. The device owns the fd and
// closes it. If FromFD fails, the fd is unchanged and stays the caller's.
func FromFD(fd int, name string) (Device, error) {
	d, err := system.adopt(fd, name)
	if err != nil {
		return nil, openError(name, err)
	}
	unix.CloseOnExec(fd)
	return d, nil
}

// IsDevice reports whether fd refers to a VFIO device, including one that cannot
// migrate and a cdev that is not bound. It has no effect on fds of another kind.
func IsDevice(fd int) bool { return system.isDevice(fd) }

func (o opener) isDevice(fd int) bool {
	err := o.getInfo(fd)
	return err == nil || o.isUnbound(fd, err)
}

// isUnbound reports whether fd refers to a cdev that is not bound. err is the
// error of an ioctl: such a cdev returns EINVAL for every ioctl but the bind.
// Other character devices return EINVAL too (/dev/kvm).
func (o opener) isUnbound(fd int, err error) bool { return isAny(err, unix.EINVAL) && o.isCdev(fd) }

func (o opener) getInfo(fd int) error {
	_, err := o.ioctl(fd, reqDeviceGetInfo, &deviceInfo{argsz: 24})
	return err
}

func (o opener) adopt(fd int, name string) (*device, error) {
	dir, _ := o.dirOfFD(fd) // "" on an older kernel: the description stays empty
	release, err := o.owned.claim(dir, name)
	if err != nil {
		return nil, err
	}
	d, err := newDevice(o.kernel, fd, name, o.describe(dir), release)
	if err != nil {
		release()
	}
	if errors.Is(err, ErrNoMigration) && o.isUnbound(fd, o.getInfo(fd)) {
		return nil, withHint(errUnbound, "bind it (VFIO_DEVICE_BIND_IOMMUFD) before you pass it on, "+
			"or name the device by its path, which opens and binds it")
	}
	return d, err
}

var errUnbound = fmt.Errorf("device is not bound to an iommufd: %w", unix.EINVAL)

func (o opener) openName(name string) (*device, error) {
	a, err := parseAddress(name)
	if err != nil {
		return nil, err
	}
	if a.path != "" {
		if err := o.checkNode(a.path); err != nil {
			return nil, err
		}
		return o.openCdev(a.path, name, o.dirOfPath(a.path))
	}
	dir, err := o.deviceDir(a)
	if err != nil {
		return nil, withHint(err, "see /sys/bus/pci/devices and /sys/bus/mdev/devices for the devices of this host")
	}
	d, err := o.openDevice(dir, name)
	if err != nil {
		return nil, withHint(err, o.setupHint(a, dir))
	}
	return d, nil
}

func (o opener) openDevice(dir, name string) (*device, error) {
	if node := o.cdevNode(dir); node != "" {
		return o.openCdev(node, name, dir)
	}
	return o.openGroup(dir, name)
}

// openOwned claims the device in dir for name, and gets its fd by get, which adds to after. The
// functions of after run if openOwned fails, and otherwise when the device has closed its fd.
func (o opener) openOwned(dir, name string, get func(after *cleanup) (fd int, err error)) (d *device, err error) {
	release, err := o.owned.claim(dir, name)
	if err != nil {
		return nil, err
	}
	after := cleanup{release}
	defer func() {
		if err != nil {
			after.run()
		}
	}()
	fd, err := get(&after)
	if err != nil {
		return nil, err
	}
	if d, err = newDevice(o.kernel, fd, name, o.describe(dir), after.run); err != nil {
		o.close(fd)
	}
	return d, err
}

// cleanup is a list of functions that release resources. They run in reverse order.
type cleanup []func()

func (c cleanup) run() {
	for _, f := range slices.Backward(c) {
		f()
	}
}

// openCdev opens and binds a cdev. Several processes can open a cdev, but only
// one can bind it.
func (o opener) openCdev(node, name, dir string) (*device, error) {
	return o.openOwned(dir, name, func(after *cleanup) (int, error) {
		fd, err := o.openNode(node)
		if err != nil {
			return -1, o.nameUser(err, dir, node)
		}
		iommufd, err := o.bind(fd)
		if err != nil {
			o.close(fd)
			return -1, o.nameUser(err, dir, node)
		}
		*after = append(*after, func() { o.close(iommufd) })
		return fd, nil
	})
}

// bind binds a cdev to an iommufd of its own.
func (o opener) bind(fd int) (iommufd int, err error) {
	iommufd, err = o.openNode(o.path("dev/iommu"))
	if isAny(err, unix.ENOENT) {
		return -1, withHint(err, "this kernel has no iommufd: name the device by its PCI address or UUID to use its group")
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
	case isAny(err, unix.EINVAL): // the cdev is bound already
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	case isAny(err, unix.ENOTTY):
		err = withHint(err, "use a path below /dev/vfio/devices; name a device without one by its PCI address or UUID")
	}
	return -1, err
}

// openNode opens a node. Its error names the node.
func (o opener) openNode(path string) (int, error) {
	fd, err := o.open(path)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, nil
}

// nameUser adds the process that uses a device to an error, if err says that the device is busy
// and this user may inspect the process. The process has the device's node open, or another node
// of the same group: the kernel lets one process use a group, by its own node or by cdevs.
func (o opener) nameUser(err error, dir, node string) error {
	if !errors.Is(err, ErrBusy) && !isAny(err, unix.EBUSY) {
		return err
	}
	nodes := append([]string{node}, o.groupNodes(dir)...)
	holders := lockfile.Holders(nodes...)
	for _, node := range nodes {
		if pid := holders[node]; pid != 0 {
			return withHint(fmt.Errorf("%w: process %d has %s open", err, pid, node),
				fmt.Sprintf("end process %d first, or have its VMM pass the device as fd:N", pid))
		}
	}
	return err
}

// openGroup opens a device through its IOMMU group, as kernels without cdevs require.
func (o opener) openGroup(dir, name string) (*device, error) {
	node, err := o.groupNode(dir)
	if err != nil {
		return nil, err
	}
	return o.openOwned(dir, name, func(after *cleanup) (int, error) {
		g, err := o.owned.acquireGroup(node, func() (*group, error) { return o.newGroup(node) })
		if err != nil {
			return -1, o.nameUser(err, dir, node)
		}
		*after = append(*after, func() { o.owned.releaseGroup(o.kernel, node) })
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
	container, err := o.openNode(o.path("dev/vfio/vfio"))
	if err != nil {
		o.close(fd)
		return nil, err
	}
	if err := o.attachContainer(fd, container); err != nil {
		o.close(fd)
		o.close(container)
		return nil, fmt.Errorf("%s: %w", node, err)
	}
	return &group{fd: fd, container: container}, nil
}

// attachContainer puts a group into a container and gives the container an IOMMU.
func (o opener) attachContainer(group, container int) error {
	if v, err := o.ioctl(container, reqGetAPIVersion, nil); err != nil || v != apiVersion {
		return fmt.Errorf("container has API version %d, want %d: %w", v, apiVersion, errors.Join(err, errors.ErrUnsupported))
	}
	status := groupStatus{argsz: 8}
	if _, err := o.ioctl(group, reqGroupGetStatus, &status); err != nil {
		return fmt.Errorf("group status: %w", err)
	}
	if status.flags&groupViable == 0 {
		return withHint(errors.New("group is not viable"),
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

// cString returns the address of a NUL-terminated copy of s.
func cString(s string) *byte { return &append([]byte(s), 0)[0] }

// hintError carries a hint, the next step to take, up to openError.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

// withHint adds a hint to err, unless err has one already or hint is "".
func withHint(err error, hint string) error {
	if _, has := errors.AsType[*hintError](err); has || hint == "" {
		return err
	}
	return &hintError{err, hint}
}

// setupHint returns the steps that prepare the host for a device that could not be opened.
func (o opener) setupHint(a address, dir string) string {
	var todo []string
	if hint := bindHint(a, boundDriver(dir)); hint != "" {
		todo = append(todo, hint)
	}
	if _, err := o.groupNode(dir); err != nil && a.pci != "" {
		todo = append(todo, "it has no IOMMU group: enable the IOMMU in the firmware and on the kernel's command line (intel_iommu=on, amd_iommu=on)")
	}
	return strings.Join(todo, "; ")
}

// bindHint returns the step to take for a PCI function that could not be opened
// while it is bound to driver, "" if none.
func bindHint(a address, driver string) string {
	switch {
	case a.pci == "":
		return ""
	case driver == "":
		return "no driver is bound: bind it to its VFIO driver, as mlx5_vfio_pci or hisi_acc_vfio_pci"
	case driver == "vfio-pci":
		return "vfio-pci cannot migrate: bind it to its own VFIO driver, as mlx5_vfio_pci or hisi_acc_vfio_pci"
	case !strings.Contains(driver, "vfio"):
		return "driver " + driver + " is bound: bind it to its VFIO driver"
	}
	return ""
}

// openError makes the error of Open and FromFD, with the hint that err carries.
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

// CheckName returns an error if name is not in a form that [Open] accepts. It
// does not look for the device.
func CheckName(name string) error {
	_, err := parseAddress(name)
	return err
}

// Address returns the address of the device that [Open] would open by the name: its PCI address,
// or the UUID of a mediated device. It finds the address of a cdev in sysfs, since the number in
// a cdev's path changes from one binding to the next. If the kernel does not know the path,
// Address returns the path. It opens nothing.
func Address(name string) (string, error) { return system.addressOf(name) }

func (o opener) addressOf(name string) (string, error) {
	a, err := parseAddress(name)
	if err != nil || a.path == "" {
		return a.pci + a.mdev, err
	}
	found, err := parseAddress(path.Base(o.dirOfPath(a.path)))
	if err != nil || found.path != "" {
		return a.path, nil
	}
	return found.pci + found.mdev, nil
}

// parseAddress parses a path, a PCI address or a UUID. A PCI address may lack its
// domain, 0000.
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
	return address{}, fmt.Errorf("%.80q does not name a device: use a path as /dev/vfio/devices/vfio0, "+
		"a PCI address as 0000:3b:00.1, or the UUID of a mediated device", s)
}
