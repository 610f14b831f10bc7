package vfio

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// openGroups are the IOMMU groups that this process has open, by node, and claimed the devices
// that it has, by their folders in sysfs.
var openGroups = struct {
	sync.Mutex
	byNode  map[string]*group
	claimed map[string]string // and by what name
}{byNode: map[string]*group{}, claimed: map[string]string{}}

// group is an IOMMU group and the container that it is in. The kernel lets a group be opened
// once, by one process, and gives the fds of all of its devices through that: so the devices
// of a group share it, and the last that is closed closes it.
type group struct {
	kernel
	node          string
	fd, container int
	users         int
}

// useGroup opens a group, or takes the one that is open. The caller releases it.
func (o opener) useGroup(node string) (*group, error) {
	openGroups.Lock()
	defer openGroups.Unlock()
	if g := openGroups.byNode[node]; g != nil {
		g.users++
		return g, nil
	}
	fds := fdSet{kernel: o.kernel}
	defer fds.closeAll()
	fd, err := fds.open(node)
	if err != nil {
		return nil, usedBy(node, err)
	}
	container, err := fds.open(o.at("dev/vfio/vfio"))
	if err != nil {
		return nil, err
	}
	if err := o.join(fd, container); err != nil {
		return nil, fmt.Errorf("%s: %w", node, err)
	}
	fds.fds = nil
	g := &group{kernel: o.kernel, node: node, fd: fd, container: container, users: 1}
	openGroups.byNode[node] = g
	return g, nil
}

// release gives a group back, which the last user closes.
func (g *group) release() {
	openGroups.Lock()
	defer openGroups.Unlock()
	if g.users--; g.users > 0 {
		return
	}
	delete(openGroups.byNode, g.node)
	g.close(g.fd)
	g.close(g.container)
}

// claim keeps this process from opening a device twice: the kernel would let a group give it
// a second time, and its data session would have two owners. release ends that.
func claim(dir, name string) (release func(), err error) {
	if dir == "" { // a kernel that does not say what device a node is
		return func() {}, nil
	}
	openGroups.Lock()
	defer openGroups.Unlock()
	if other, ok := openGroups.claimed[dir]; ok {
		return nil, hinted(fmt.Errorf("%w: this process has it open already, as %s", ErrBusy, other), "name every device once")
	}
	openGroups.claimed[dir] = name
	return func() {
		openGroups.Lock()
		defer openGroups.Unlock()
		delete(openGroups.claimed, dir)
	}, nil
}

// noIOMMU is the name that the kernel gives the groups of devices without an IOMMU
// (enable_unsafe_noiommu_mode of the module vfio).
const noIOMMU = "vfio-noiommu"

// checkIOMMU refuses a device of such a group: it reaches all memory of the host, so that no
// VMM gives it to a guest, and there is no guest to migrate.
func (t tree) checkIOMMU(dir string) error {
	link, err := os.Readlink(filepath.Join(dir, "iommu_group"))
	if err != nil {
		return nil // which group says
	}
	name, err := os.ReadFile(t.at("sys/kernel/iommu_groups", filepath.Base(link), "name"))
	if err != nil || strings.TrimSpace(string(name)) != noIOMMU {
		return nil
	}
	return hinted(fmt.Errorf("%w: IOMMU group %s has no IOMMU behind it (noiommu mode)", ErrNoMigration, filepath.Base(link)),
		"enable the IOMMU in the firmware and on the kernel's command line (intel_iommu=on, amd_iommu=on), and leave enable_unsafe_noiommu_mode off")
}
