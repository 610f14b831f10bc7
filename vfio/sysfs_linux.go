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

// tree is where device nodes and sysfs are looked for: "" on a real machine,
// a folder in tests.
type tree string

func (t tree) at(elem ...string) string {
	return filepath.Join(append([]string{string(t), "/"}, elem...)...)
}

// find gives the sysfs folder of a PCI or mediated device.
func (t tree) find(a address) (string, error) {
	link := t.at("sys/bus/pci/devices", a.pci)
	if a.mdev != "" {
		link = t.at("sys/bus/mdev/devices", a.mdev)
	}
	return filepath.EvalSymlinks(link)
}

// cdev gives the node of a device's cdev, "" where the kernel has none for it
// or lacks iommufd to bind it to.
func (t tree) cdev(dir string) string {
	names, _ := filepath.Glob(filepath.Join(dir, "vfio-dev", "vfio*"))
	if len(names) == 0 {
		return ""
	}
	node := t.at("dev/vfio/devices", filepath.Base(names[0]))
	for _, need := range []string{node, t.at("dev/iommu")} {
		if _, err := os.Stat(need); err != nil {
			return ""
		}
	}
	return node
}

// group gives the node of a device's IOMMU group.
func (t tree) group(dir string) (string, error) {
	target, err := os.Readlink(filepath.Join(dir, "iommu_group"))
	if err != nil {
		return "", fmt.Errorf("no IOMMU group: %w", err)
	}
	node := t.at("dev/vfio", filepath.Base(target))
	if _, err := os.Stat(t.at("dev/vfio", noIOMMU+filepath.Base(target))); err == nil {
		return "", errNoIOMMU
	}
	return node, nil
}

// noIOMMU is what the nodes of groups begin with whose devices have no IOMMU. The name of the
// group in sysfs does not tell: it is "vfio-noiommu" for every mediated device, too.
const noIOMMU = "noiommu-"

// errNoIOMMU says what the kernel says of its parameter: "cannot be used for device assignment
// to virtual machines".
var errNoIOMMU = hinted(fmt.Errorf("%w: there is no IOMMU behind its group (noiommu mode), so that no guest can have it", ErrNoMigration),
	"enable the IOMMU in the firmware and on the kernel's command line (intel_iommu=on, amd_iommu=on), "+
		"switch enable_unsafe_noiommu_mode of the module vfio off, and bind the device again")

// groupNodes gives the nodes by which the devices of a device's group may be in use.
func (t tree) groupNodes(dir string) (nodes []string) {
	group := filepath.Join(dir, "iommu_group")
	if target, err := os.Readlink(group); err == nil {
		nodes = append(nodes, t.at("dev/vfio", filepath.Base(target)))
	}
	cdevs, _ := filepath.Glob(filepath.Join(group, "devices/*/vfio-dev/vfio*"))
	for _, c := range cdevs {
		nodes = append(nodes, t.at("dev/vfio/devices", filepath.Base(c)))
	}
	return nodes
}

// char gives the sysfs entry of a character device by its number.
func (t tree) char(rdev uint64) string {
	return t.at("sys/dev/char", fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)))
}

// ofNode gives the sysfs folder of the device that a cdev's number stands for.
func (t tree) ofNode(rdev uint64) (string, error) {
	return filepath.EvalSymlinks(filepath.Join(t.char(rdev), "device"))
}

// ofPath gives the sysfs folder of the device whose cdev is at path, "" where there is none.
func (t tree) ofPath(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return ""
	}
	dir, _ := t.ofNode(uint64(st.Rdev)) // 32 bits on mips
	return dir
}

var errNotVFIO = errors.New("it is not a VFIO device")

// checkNode refuses what is known not to be a cdev before it is opened: for
// some nodes that is an act, a watchdog begins to count.
func (t tree) checkNode(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil // opening it says why
	}
	switch t.class(&st) {
	case "", cdevClass: // where sysfs does not say, opening it does
		return nil
	case "vfio":
		if strings.HasPrefix(filepath.Base(path), noIOMMU) {
			return errNoIOMMU
		}
		return hinted(fmt.Errorf("%w but the node of a group", errNotVFIO), "name the device by its PCI address or UUID")
	}
	return hinted(errNotVFIO, "want a path below /dev/vfio/devices, a PCI address, or the UUID of a mediated device")
}

// cdevClass is the class of a device's cdev.
const cdevClass = "vfio-dev"

// class gives the class of a character device, "" where sysfs does not say.
func (t tree) class(st *unix.Stat_t) string {
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "no character device"
	}
	link, err := os.Readlink(filepath.Join(t.char(uint64(st.Rdev)), "subsystem")) // 32 bits on mips
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}

// isCdev reports whether fd is that of a cdev, bound or not.
func (t tree) isCdev(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && t.class(&st) == cdevClass
}

// ofFD gives the sysfs folder of an open device. The kernel says it in fdinfo
// since 6.18, and for a cdev by the number of its node.
func (t tree) ofFD(fd int) (string, error) {
	text, err := os.ReadFile(t.at("proc/self/fdinfo", strconv.Itoa(fd)))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(text) {
		if dir, ok := strings.CutPrefix(string(line), "vfio-device-syspath:"); ok {
			return t.at(strings.TrimSpace(dir)), nil
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "", fs.ErrNotExist
	}
	return t.ofNode(uint64(st.Rdev)) // 32 bits on mips
}

// describe reads what sysfs says about the device in dir; "" is a device that
// sysfs does not know.
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

// boundDriver gives the name of the driver that has the device, "" if none.
func boundDriver(dir string) string {
	target, err := os.Readlink(filepath.Join(dir, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// driverName is the short name by which the variant drivers are known:
// "mlx5" for mlx5_vfio_pci.
func driverName(bound string) string {
	return strings.TrimSuffix(strings.ReplaceAll(bound, "-", "_"), "_vfio_pci")
}

// readID reads a sysfs file of one hexadecimal number, 0 where there is none.
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

// before reports whether a kernel release is older than major.minor; one that
// cannot be read is not.
func before(release string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a < major || a == major && b < minor
}
