package vfio

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is the root directory of device nodes and sysfs: "" on a real machine,
// a temporary directory in tests.
type tree string

func (t tree) path(elem ...string) string {
	return filepath.Join(append([]string{string(t), "/"}, elem...)...)
}

// deviceDir returns the sysfs directory of a PCI or mediated device.
func (t tree) deviceDir(a address) (string, error) {
	link := t.path("sys/bus/pci/devices", a.pci)
	if a.mdev != "" {
		link = t.path("sys/bus/mdev/devices", a.mdev)
	}
	return filepath.EvalSymlinks(link)
}

// cdevNode returns the node of a device's cdev. It returns "" if the device has
// none, or the kernel has no iommufd to bind it to.
func (t tree) cdevNode(dir string) string {
	names, _ := filepath.Glob(filepath.Join(dir, "vfio-dev", "vfio*"))
	if len(names) == 0 {
		return ""
	}
	node := t.path("dev/vfio/devices", filepath.Base(names[0]))
	for _, need := range []string{node, t.path("dev/iommu")} {
		if _, err := os.Stat(need); err != nil {
			return ""
		}
	}
	return node
}

// groupNode returns the node of a device's IOMMU group.
func (t tree) groupNode(dir string) (string, error) {
	target, err := os.Readlink(filepath.Join(dir, "iommu_group"))
	if err != nil {
		return "", fmt.Errorf("no IOMMU group: %w", err)
	}
	node := t.path("dev/vfio", filepath.Base(target))
	if _, err := os.Stat(t.path("dev/vfio", noIOMMU+filepath.Base(target))); err == nil {
		return "", errNoIOMMU
	}
	return node, nil
}

// noIOMMU is the prefix of the node of a group whose devices have no IOMMU. The group's name in
// sysfs does not show it: every mediated device has "vfio-noiommu" there too.
const noIOMMU = "noiommu-"

// errNoIOMMU follows the kernel's text on the module parameter: "cannot be used for device
// assignment to virtual machines".
var errNoIOMMU = withHint(fmt.Errorf("%w: its group has no IOMMU (noiommu mode), so it cannot be assigned to a guest", ErrNoMigration),
	"enable the IOMMU in the firmware and on the kernel's command line (intel_iommu=on, amd_iommu=on), "+
		"switch enable_unsafe_noiommu_mode of the module vfio off, and bind the device again")

// groupNodes returns the nodes by which a process may use the devices of a device's group.
func (t tree) groupNodes(dir string) (nodes []string) {
	group := filepath.Join(dir, "iommu_group")
	if target, err := os.Readlink(group); err == nil {
		nodes = append(nodes, t.path("dev/vfio", filepath.Base(target)))
	}
	cdevs, _ := filepath.Glob(filepath.Join(group, "devices/*/vfio-dev/vfio*"))
	for _, c := range cdevs {
		nodes = append(nodes, t.path("dev/vfio/devices", filepath.Base(c)))
	}
	return nodes
}

// charDir returns the sysfs directory of the character device with a number.
func (t tree) charDir(rdev uint64) string {
	return t.path("sys/dev/char", fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)))
}

// dirOfNumber returns the sysfs directory of the device whose cdev has a number.
func (t tree) dirOfNumber(rdev uint64) (string, error) {
	return filepath.EvalSymlinks(filepath.Join(t.charDir(rdev), "device"))
}

// dirOfPath returns the sysfs directory of the device whose cdev is at path, "" if there is none.
func (t tree) dirOfPath(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return ""
	}
	dir, _ := t.dirOfNumber(uint64(st.Rdev)) // 32 bits on mips
	return dir
}

var errNotVFIO = errors.New("not a VFIO device")

// checkNode refuses a path that is known not to be a cdev. It does so before
// the open, since for some nodes the open has an effect: a watchdog starts.
func (t tree) checkNode(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil // the open will fail, with a reason
	}
	switch t.deviceClass(&st) {
	case "", cdevClass: // if sysfs does not know the class, the open decides
		return nil
	case "vfio":
		if strings.HasPrefix(filepath.Base(path), noIOMMU) {
			return errNoIOMMU
		}
		return withHint(fmt.Errorf("%w but the node of a group", errNotVFIO), "name the device by its PCI address or UUID")
	}
	return withHint(errNotVFIO, "use a path below /dev/vfio/devices, a PCI address, or the UUID of a mediated device")
}

// cdevClass is the class of a device's cdev.
const cdevClass = "vfio-dev"

// deviceClass returns the class of a character device, "" if sysfs does not know it.
func (t tree) deviceClass(st *unix.Stat_t) string {
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "no character device"
	}
	link, err := os.Readlink(filepath.Join(t.charDir(uint64(st.Rdev)), "subsystem")) // 32 bits on mips
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}

// isCdev reports whether fd refers to a cdev, bound or not.
func (t tree) isCdev(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && t.deviceClass(&st) == cdevClass
}

// dirOfFD returns the sysfs directory of an open device. Linux 6.18 and later
// have it in fdinfo. For a cdev it also follows from the number of its node.
func (t tree) dirOfFD(fd int) (string, error) {
	text, err := os.ReadFile(t.path("proc/self/fdinfo", strconv.Itoa(fd)))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(text) {
		if dir, ok := strings.CutPrefix(string(line), "vfio-device-syspath:"); ok {
			return t.path(strings.TrimSpace(dir)), nil
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "", fs.ErrNotExist
	}
	return t.dirOfNumber(uint64(st.Rdev)) // 32 bits on mips
}

// describe reads the description of the device in dir from sysfs. dir is "" for
// a device that sysfs does not know.
func (t tree) describe(dir string) Info {
	info := Info{Kernel: kernelRelease()}
	if dir == "" {
		return info
	}
	info.Driver = driverName(boundDriver(dir))
	info.Vendor = readID(dir, "vendor")
	info.Device = readID(dir, "device")
	if v := readID(dir, "subsystem_vendor"); v != 0 {
		info.Subsystem = fmt.Sprintf("%04x:%04x", v, readID(dir, "subsystem_device"))
	}
	return info
}

// boundDriver returns the name of the driver that the device is bound to, "" if none.
func boundDriver(dir string) string {
	target, err := os.Readlink(filepath.Join(dir, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// driverName returns the short name of a variant driver: "mlx5" for
// mlx5_vfio_pci.
func driverName(bound string) string {
	return strings.TrimSuffix(strings.ReplaceAll(bound, "-", "_"), "_vfio_pci")
}

// readID reads a sysfs file that holds one hexadecimal number. It returns 0 if
// there is none.
func readID(dir, name string) uint32 {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 32)
	if err != nil {
		return 0
	}
	return uint32(id)
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// kernelBefore reports whether a kernel release is older than major.minor. It is
// false for a release that cannot be parsed.
func kernelBefore(release string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a < major || a == major && b < minor
}
