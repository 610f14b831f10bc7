package vfio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	pciName  = "0000:3b:00.1"
	pciNext  = "0000:3b:00.2"
	mdevName = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
)

// fakeTree makes a sysfs with two mlx5 VFs in IOMMU group 12 and an mtty device in group 13.
// The second VF has nothing but its name.
func fakeTree(t *testing.T) tree {
	t.Helper()
	root := tree(t.TempDir())
	pci := root.path("sys/devices/pci0000:3a/" + pciName)
	mdev := root.path("sys/devices/virtual/mtty/mtty/" + mdevName)
	for name, text := range map[string]string{
		"vendor": "0x15b3\n", "device": "0x101e\n", "subsystem_vendor": "0x15b3\n", "subsystem_device": "0x0023\n",
	} {
		write(t, filepath.Join(pci, name), text)
	}
	link(t, pci, root.path("sys/bus/pci/devices", pciName))
	link(t, mdev, root.path("sys/bus/mdev/devices", mdevName))
	next := root.path("sys/devices/pci0000:3a/" + pciNext)
	link(t, next, root.path("sys/bus/pci/devices", pciNext))
	link(t, "../../../kernel/iommu_groups/12", filepath.Join(next, "iommu_group"))
	link(t, pci, root.path("sys/kernel/iommu_groups/12/devices", pciName))
	link(t, next, root.path("sys/kernel/iommu_groups/12/devices", pciNext))
	link(t, "../../../bus/pci/drivers/mlx5_vfio_pci", filepath.Join(pci, "driver"))
	link(t, "../../../../bus/mdev/drivers/mtty", filepath.Join(mdev, "driver"))
	link(t, "../../../kernel/iommu_groups/12", filepath.Join(pci, "iommu_group"))
	link(t, "../../../../kernel/iommu_groups/13", filepath.Join(mdev, "iommu_group"))
	return root
}

// addCdev adds the cdev vfio3 to a device of the tree.
func addCdev(t *testing.T, root tree, device string) {
	t.Helper()
	dir := root.path("sys/devices", device)
	write(t, filepath.Join(dir, "vfio-dev/vfio3/dev"), "511:3\n")
	write(t, root.path("dev/vfio/devices/vfio3"), "")
	write(t, root.path("dev/iommu"), "")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(target, 0o755), os.MkdirAll(filepath.Dir(path), 0o755))
	if !filepath.IsAbs(target) {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err := errors.Join(err, os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

func fakeOpener(t *testing.T) (*fakeKernel, opener) {
	k := newFakeKernel(t)
	delete(k.files, fakeDeviceFD)
	return k, opener{kernel: k, tree: fakeTree(t), owned: newOwned()}
}

func TestOpenByGroup(t *testing.T) {
	k, o := fakeOpener(t)
	d, err := o.openName(pciName)
	if err != nil {
		t.Fatal(err)
	}
	// Format is empty: a guess would refuse compatible devices.
	want := Info{Driver: "mlx5", Vendor: 0x15b3, Device: 0x101e, Subsystem: "15b3:0023", Kernel: kernelRelease()}
	if got := Describe(d); got != want {
		t.Errorf("described as %+v", got)
	}
	if len(k.files) != 3 || k.calls[0] != "open "+o.path("dev/vfio/12") || k.calls[1] != "open "+o.path("dev/vfio/vfio") {
		t.Errorf("open: %v, calls %v", k.files, k.calls)
	}
	_ = d.Close()
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
}

func TestOpenMdevByGroup(t *testing.T) {
	k, o := fakeOpener(t)
	k.fail("ioctl 0x3b66", unix.EINVAL) // SET_IOMMU of type 1 version 2
	d, err := o.openName(strings.ToUpper(mdevName))
	if err != nil {
		t.Fatal(err)
	}
	if d.Describe().Driver != "mtty" || k.count("ioctl 0x3b66") != 2 {
		t.Errorf("described as %+v, calls %v", d.Describe(), k.calls)
	}
}

func TestOpenByCdev(t *testing.T) {
	for _, name := range []string{pciName, "/dev/vfio/devices/vfio3"} {
		k, o := fakeOpener(t)
		addCdev(t, o.tree, "pci0000:3a/"+pciName)
		d, err := o.openName(name)
		if err != nil {
			t.Fatal(err)
		}
		if k.count("ioctl 0x3b76") != 1 || k.count("open "+o.path("dev/vfio/12")) != 0 {
			t.Errorf("calls %v", k.calls)
		}
		_ = d.Close()
		if len(k.files) != 0 {
			t.Errorf("left open: %v", k.files)
		}
	}
}

func TestOpenCdevNeedsIOMMUFD(t *testing.T) {
	k, o := fakeOpener(t)
	addCdev(t, o.tree, "pci0000:3a/"+pciName)
	if err := os.Remove(o.path("dev/iommu")); err != nil {
		t.Fatal(err)
	}
	if _, err := o.openName(pciName); err != nil || k.count("ioctl 0x3b6a") != 1 {
		t.Errorf("the device was not opened by its group: %v, %v", err, k.calls)
	}
}

// TestOpenShared opens two devices of one group at the same time, 20 times.
func TestOpenShared(t *testing.T) {
	k, o := fakeOpener(t)
	for round := 1; round <= 20; round++ {
		var devices [2]*device
		var open sync.WaitGroup
		for i, name := range []string{pciName, pciNext} {
			open.Go(func() {
				d, err := o.openName(name)
				if err != nil {
					t.Error(err)
				}
				devices[i] = d
			})
		}
		if open.Wait(); t.Failed() {
			return
		}
		for call, want := range map[string]int{
			"open " + o.path("dev/vfio/12"): round, "open " + o.path("dev/vfio/vfio"): round,
			"ioctl 0x3b68": round, "ioctl 0x3b66": round, "ioctl 0x3b6a": 2 * round, // SET_CONTAINER, SET_IOMMU, GET_DEVICE_FD
		} {
			if got := k.count(call); got != want {
				t.Errorf("round %d: %d times %s, want %d", round, got, call, want)
			}
		}
		first, last := devices[round%2], devices[1-round%2]
		_ = first.Close()
		_ = first.Close()
		if _, err := last.State(); err != nil || len(k.files) != 3 {
			t.Errorf("after the other device was closed: %v, open: %v", err, k.files)
		}
		_ = last.Close()
		if len(k.files) != 0 {
			t.Fatalf("left open: %v", k.files)
		}
	}
}

// TestOpenSharedFails checks that a failed open of a device does not affect another device of
// its group, and that a group can be opened after a failure.
func TestOpenSharedFails(t *testing.T) {
	for _, call := range []string{"ioctl 0x3b6a", "migration"} {
		k, o := fakeOpener(t)
		d, err := o.openName(pciName)
		if err != nil {
			t.Fatal(err)
		}
		k.fail(call, unix.ENOTTY)
		if _, err := o.openName(pciNext); err == nil {
			t.Errorf("open succeeds although %s failed", call)
		}
		if _, err := d.State(); err != nil || len(k.files) != 3 {
			t.Errorf("%s failed: %v, open: %v", call, err, k.files)
		}
		_ = d.Close()
		if len(k.files) != 0 {
			t.Errorf("left open: %v", k.files)
		}
		k.fail("ioctl 0x3b68", unix.EINVAL) // SET_CONTAINER
		if _, err := o.openName(pciName); err == nil || len(k.files) != 0 {
			t.Errorf("open succeeds although SET_CONTAINER failed: %v, open: %v", err, k.files)
		}
		if d, err = o.openName(pciName); err != nil {
			t.Fatal(err)
		}
		_ = d.Close()
	}
}

// TestGroupOutlivesItsDevice checks that the group is closed after the device's fd, which a call
// still uses.
func TestGroupOutlivesItsDevice(t *testing.T) {
	k, o := fakeOpener(t)
	d, err := o.openName(pciName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.fd.acquire(); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	if len(k.files) != 3 {
		t.Errorf("open: %v", k.files)
	}
	if _, err := o.openName(pciName); !errors.Is(err, ErrBusy) {
		t.Errorf("opened again: %v", err)
	}
	d.fd.release()
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
}

// TestOpenTwice opens a device under each of its names: its state has one owner.
func TestOpenTwice(t *testing.T) {
	for _, cdev := range []bool{false, true} {
		k, o := fakeOpener(t)
		if cdev {
			addCdev(t, o.tree, "pci0000:3a/"+pciName)
		}
		d, err := o.openName(pciName)
		if err != nil {
			t.Fatal(err)
		}
		fds := len(k.files)
		_, err = o.openName("3b:00.1")
		err = openError("3b:00.1", err)
		if e := err.(*OpError); !errors.Is(err, ErrBusy) || e.Hint != "name every device once" || !strings.Contains(err.Error(), "open as "+pciName) {
			t.Errorf("%v, hint %q", err, e.Hint)
		}
		if len(k.files) != fds {
			t.Errorf("open: %v", k.files)
		}
		fd := k.newFD("device")
		write(t, o.path("proc/self/fdinfo", strconv.Itoa(fd)), "vfio-device-syspath: /sys/devices/pci0000:3a/"+pciName+"\n")
		if _, err := o.adopt(fd, "fd"); !errors.Is(err, ErrBusy) || k.files[fd] == "" {
			t.Errorf("adopted: %v", err)
		}
		_ = d.Close()
		if d, err = o.openName("3b:00.1"); err != nil {
			t.Fatalf("open after the close: %v", err)
		}
		_ = d.Close()
	}
}

// TestOpenMediated opens a mediated device whose group has the name vfio-noiommu, which does not
// mean noiommu mode (vfio_noiommu_group_alloc).
func TestOpenMediated(t *testing.T) {
	k, o := fakeOpener(t)
	write(t, o.path("sys/kernel/iommu_groups/13/name"), "vfio-noiommu\n")
	d, err := o.openName(mdevName)
	if err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
}

// TestOpenNoIOMMU opens a device in noiommu mode under each of its names, and expects a refusal.
func TestOpenNoIOMMU(t *testing.T) {
	for _, name := range []string{pciName, "node"} {
		k, o := fakeOpener(t)
		write(t, o.path("dev/vfio/noiommu-12"), "")
		if name == "node" {
			link(t, "../../../class/vfio", filepath.Join(o.charDir(devNull(t)), "subsystem"))
			name = o.path("dev/vfio/noiommu-12")
			if err := errors.Join(os.Remove(name), os.Symlink("/dev/null", name)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := o.openName(name)
		checkOpenError(t, k, openError(name, err), ErrNoMigration, "enable_unsafe_noiommu_mode")
		if len(k.calls) != 0 {
			t.Errorf("calls: %v", k.calls)
		}
	}
}

// TestOpenErrors makes each step fail. It expects a kind of error, a hint, and
// no open fd.
func TestOpenErrors(t *testing.T) {
	group, cdev := "open %/dev/vfio/12", "open %/dev/vfio/devices/vfio3"
	for _, c := range []struct {
		name, device, call string
		errno              unix.Errno
		cdev               bool
		want               error
		hint               string
	}{
		{"group_busy", pciName, group, unix.EBUSY, false, ErrBusy, "another process"},
		{"group_forbidden", pciName, group, unix.EACCES, false, fs.ErrPermission, "root"},
		{"container_gone", pciName, "open %/dev/vfio/vfio", unix.ENOENT, false, fs.ErrNotExist, ""},
		{"no_such_device_in_group", pciName, "ioctl 0x3b6a", unix.ENODEV, false, unix.ENODEV, ""},
		{"old_container", pciName, "ioctl 0x3b64", 0, false, errors.ErrUnsupported, ""},
		{"group_in_a_container", pciName, "ioctl 0x3b68", unix.EINVAL, false, unix.EINVAL, ""},
		{"no_iommu", mdevName, "ioctl 0x3b66", unix.ENODEV, false, unix.ENODEV, ""},
		{"no_migration", pciName, "migration", unix.ENOTTY, false, ErrNoMigration, ""},
		{"cdev_busy", pciName, cdev, unix.EBUSY, true, ErrBusy, "another process"},
		{"cdev_bound", pciName, "ioctl 0x3b76", unix.EINVAL, true, ErrBusy, "another process"},
		{"cdev_forbidden", pciName, "ioctl 0x3b76", unix.EPERM, true, fs.ErrPermission, "root"},
		{"not_a_cdev", "/dev/vfio/12", "ioctl 0x3b76", unix.ENOTTY, true, unix.ENOTTY, "/dev/vfio/devices"},
		{"unknown_pci", "0000:00:00.0", "", 0, false, fs.ErrNotExist, "/sys/bus/pci"},
		{"unknown_mdev", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002", "", 0, false, fs.ErrNotExist, "/sys/bus/mdev"},
		{"no_address", "vfio0", "", 0, false, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, o := fakeOpener(t)
			if c.cdev {
				addCdev(t, o.tree, "pci0000:3a/"+pciName)
			}
			call := strings.ReplaceAll(c.call, "%", string(o.tree))
			if c.errno != 0 {
				k.fail(call, c.errno, c.errno)
			} else {
				k.returns(call, result{n: 1})
			}
			_, err := o.openName(c.device)
			checkOpenError(t, k, openError(c.device, err), c.want, c.hint)
		})
	}
}

// TestOpenNamesTheUser checks that the error for a busy node names the process that uses it.
func TestOpenNamesTheUser(t *testing.T) {
	group, cdev := "dev/vfio/12", "dev/vfio/devices/vfio3"
	for _, c := range []struct{ call, device, node string }{
		{"open %/dev/vfio/12", pciName, group},
		{"open %/dev/vfio/devices/vfio3", pciName, cdev},
		{"ioctl 0x3b76", pciName, cdev},
		{"ioctl 0x3b76", pciName, group},      // by its group: vfio_df_block_group
		{"open %/dev/vfio/12", pciNext, cdev}, // another device of its group: cdev_device_open_cnt
	} {
		k, o := fakeOpener(t)
		call, node := c.call, c.node
		write(t, o.path(group), "")
		if c.node == cdev || strings.HasPrefix(call, "ioctl") {
			addCdev(t, o.tree, "pci0000:3a/"+pciName)
		}
		write(t, o.path(node), "")
		f, err := os.Open(o.path(node))
		if err != nil {
			t.Fatal(err)
		}
		user := exec.Command("sleep", "60")
		user.Stdin = f
		err = user.Start()
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		errno := unix.EBUSY
		if strings.HasPrefix(call, "ioctl") {
			errno = unix.EINVAL
		}
		k.fail(strings.ReplaceAll(call, "%", string(o.tree)), errno)
		_, err = o.openName(c.device)
		err = openError(c.device, err)
		checkOpenError(t, k, err, ErrBusy, fmt.Sprintf("end process %d first", user.Process.Pid))
		if want := fmt.Sprintf("process %d has %s open", user.Process.Pid, o.path(node)); !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		user.Process.Kill()
		user.Wait()
	}
}

func checkOpenError(t *testing.T, k *fakeKernel, err, want error, hint string) {
	t.Helper()
	if want != nil {
		wantIs(t, err, want)
	}
	if e, ok := errors.AsType[*OpError](err); !ok || !strings.Contains(e.Hint, hint) {
		t.Errorf("error %v lacks the hint %q", err, hint)
	}
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
}

func devNull(t *testing.T) uint64 {
	var null unix.Stat_t
	if err := unix.Stat("/dev/null", &null); err != nil {
		t.Fatal(err)
	}
	return uint64(null.Rdev)
}

// TestCheckNode checks nodes by the class that sysfs has for their number.
func TestCheckNode(t *testing.T) {
	null := devNull(t)
	for class, want := range map[string]string{"vfio-dev": "", "": "", "mem": "below /dev/vfio/devices", "vfio": "by its PCI address"} {
		root := fakeTree(t)
		if class != "" {
			link(t, "../../../class/"+class, filepath.Join(root.charDir(null), "subsystem"))
		}
		err := root.checkNode("/dev/null")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(openError("x", err).(*OpError).Hint, want) {
			t.Errorf("a node of class %q: %v, want the hint %q", class, err, want)
		}
	}
	root := fakeTree(t)
	write(t, root.path("passwd"), "")
	if err := root.checkNode(root.path("passwd")); !errors.Is(err, errNotVFIO) {
		t.Errorf("a regular file: %v", err)
	}
	if err := root.checkNode(root.path("missing")); err != nil {
		t.Errorf("a missing file: %v", err)
	}
}

func TestNoIOMMUFD(t *testing.T) {
	k, o := fakeOpener(t)
	k.fail("open "+o.path("dev/iommu"), unix.ENOENT)
	_, err := o.openName("/dev/vfio/devices/vfio3")
	checkOpenError(t, k, openError("vfio3", err), fs.ErrNotExist, "no iommufd: name the device by its PCI address")
}

// TestNoIOMMUGroup checks that one hint names both missing parts.
func TestNoIOMMUGroup(t *testing.T) {
	k, o := fakeOpener(t)
	dir := o.path("sys/devices/pci0000:3a", pciName)
	if err := errors.Join(os.Remove(filepath.Join(dir, "iommu_group")), os.Remove(filepath.Join(dir, "driver"))); err != nil {
		t.Fatal(err)
	}
	_, err := o.openName(pciName)
	checkOpenError(t, k, openError(pciName, err), fs.ErrNotExist, "no driver is bound")
	checkOpenError(t, k, openError(pciName, err), fs.ErrNotExist, "intel_iommu=on")
}

func TestGroupNotViable(t *testing.T) {
	k, o := fakeOpener(t)
	k.returns("ioctl 0x3b67", result{}) // success, and no flags
	_, err := o.openName(pciName)
	checkOpenError(t, k, openError(pciName, err), nil, "IOMMU group")
}

func TestBindHint(t *testing.T) {
	pci := address{pci: pciName}
	for driver, want := range map[string]string{
		"": "no driver", "vfio-pci": "cannot migrate", "mlx5_core": "mlx5_core", "mlx5_vfio_pci": "",
	} {
		if got := bindHint(pci, driver); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%q: %q", driver, got)
		}
	}
}

func TestDriverName(t *testing.T) {
	for bound, want := range map[string]string{
		"mlx5_vfio_pci": "mlx5", "hisi_acc_vfio_pci": "hisi_acc", "hisi-acc-vfio-pci": "hisi_acc",
		"xe-vfio-pci": "xe", "mtty": "mtty", "": "",
	} {
		if got := driverName(bound); got != want {
			t.Errorf("%q: %q, want %q", bound, got, want)
		}
	}
}

func TestKernelBefore(t *testing.T) {
	for release, want := range map[string]bool{
		"5.18.0": true, "6.1.0-44-amd64": true, "6.2.0": false, "6.12.117+deb12-amd64": false, "10.0": false, "": false,
	} {
		if kernelBefore(release, 6, 2) != want {
			t.Errorf("%q", release)
		}
	}
}

// TestFromFD adopts an fd whose device is named in fdinfo.
func TestFromFD(t *testing.T) {
	k, o := fakeOpener(t)
	k.files[fakeDeviceFD] = "device"
	write(t, o.path("proc/self/fdinfo", strconv.Itoa(fakeDeviceFD)),
		"pos:\t0\nvfio-device-syspath: /sys/devices/pci0000:3a/"+pciName+"\n")
	d, err := o.adopt(fakeDeviceFD, "net0")
	if err != nil || d.Describe().Driver != "mlx5" {
		t.Fatalf("%v, %+v", err, d.Describe())
	}
	_ = d.Close()
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
}

// TestFromFDOfPipe checks that a pipe is refused, and that its fd is unchanged.
func TestFromFDOfPipe(t *testing.T) {
	r, _ := pipe(t)
	if IsDevice(r) {
		t.Error("IsDevice is true for a pipe")
	}
	_, _ = unix.FcntlInt(uintptr(r), unix.F_SETFD, 0) // as inherited
	_, err := FromFD(r, "net0")
	wantIs(t, err, ErrNoMigration)
	if flags, err := unix.FcntlInt(uintptr(r), unix.F_GETFD, 0); err != nil || flags != 0 {
		t.Errorf("flags %#x, %v, want them unchanged", flags, err)
	}
}

// openClassed opens /dev/null, which is a cdev in the fake kernel and has the
// given class in the tree. It returns the fd.
func openClassed(t *testing.T, k *fakeKernel, o opener, class string) int {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	fd := int(null.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	link(t, "../../../class/"+class, filepath.Join(o.charDir(uint64(st.Rdev)), "subsystem"))
	k.files[fd] = "cdev"
	return fd
}

// TestFromFDOfUnboundCdev distinguishes a cdev that is not bound, which returns
// EINVAL for every ioctl, from a device that cannot migrate and from a device of
// another class (/dev/kvm returns EINVAL too).
func TestFromFDOfUnboundCdev(t *testing.T) {
	for _, c := range []struct {
		name    string
		class   string
		getInfo []error
		want    error
		hint    string
	}{
		{"unbound", "vfio-dev", []error{unix.EINVAL}, errUnbound, "VFIO_DEVICE_BIND_IOMMUFD"},
		{"kvm", "misc", []error{unix.EINVAL}, ErrNoMigration, ""},
		{"no_device", "mem", []error{unix.ENOTTY}, ErrNoMigration, ""},
		{"no_migration", "vfio-dev", nil, ErrNoMigration, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, o := fakeOpener(t)
			fd := openClassed(t, k, o, c.class)
			k.fail("migration", unix.EINVAL)
			k.fail("ioctl 0x3b6b", c.getInfo...)
			_, err := o.adopt(fd, "net0")
			var e *OpError
			if !errors.As(openError("net0", err), &e) || !errors.Is(e, c.want) || !strings.Contains(e.Hint, c.hint) || (e.Hint == "") != (c.hint == "") {
				t.Errorf("got %v, want %v and the hint %q", e, c.want, c.hint)
			}
			if c.want == errUnbound && errors.Is(err, ErrNoMigration) {
				t.Errorf("%v: an unbound device may be able to migrate", err)
			}
			if len(k.files) != 1 {
				t.Errorf("open: %v, want the caller's fd", k.files)
			}
		})
	}
}

// TestIsDeviceUnbound checks that an unbound cdev is recognized by the class of
// its number, here that of /dev/null.
func TestIsDeviceUnbound(t *testing.T) {
	for class, want := range map[string]bool{"vfio-dev": true, "mem": false} {
		k, o := fakeOpener(t)
		fd := openClassed(t, k, o, class)
		k.fail("ioctl 0x3b6b", unix.EINVAL)
		if got := o.isDevice(fd); got != want {
			t.Errorf("class %s: %v", class, got)
		}
	}
}

func TestIsDevice(t *testing.T) {
	k, o := fakeOpener(t)
	k.files[fakeDeviceFD] = "device"
	if !o.isDevice(fakeDeviceFD) {
		t.Error("IsDevice is false for a device")
	}
	k.fail("ioctl 0x3b6b", unix.ENOTTY)
	if o.isDevice(fakeDeviceFD) {
		t.Error("IsDevice is true for an fd without VFIO ioctls")
	}
}

// TestDirOfNumber finds a cdev's device by the number of its node.
func TestDirOfNumber(t *testing.T) {
	root := fakeTree(t)
	link(t, root.path("sys/devices/pci0000:3a", pciName), root.path("sys/dev/char/511:3/device"))
	dir, err := root.dirOfNumber(unix.Mkdev(511, 3))
	if err != nil || filepath.Base(dir) != pciName {
		t.Errorf("got %q, %v", dir, err)
	}
}

// TestAddress checks that a device has the same address under each of its names.
func TestAddress(t *testing.T) {
	root := fakeTree(t)
	link(t, root.path("sys/devices/pci0000:3a", pciName), filepath.Join(root.charDir(devNull(t)), "device"))
	o := opener{tree: root}
	for name, want := range map[string]string{
		strings.ToUpper(pciName): pciName, strings.TrimPrefix(pciName, "0000:"): pciName, mdevName: mdevName,
		"/dev/null": pciName, "/dev/vfio/devices/../devices/vfio9": "/dev/vfio/devices/vfio9", "nonsense": "",
	} {
		if got, err := o.addressOf(name); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestOpenMissing(t *testing.T) {
	_, err := Open("0000:ff:1f.7")
	wantIs(t, err, fs.ErrNotExist)
	if !strings.HasPrefix(err.Error(), "vfio: 0000:ff:1f.7: open: ") {
		t.Errorf("error reads %q", err)
	}
}

func TestParseAddress(t *testing.T) {
	for s, want := range map[string]address{
		"/dev/vfio/devices/vfio0":              {path: "/dev/vfio/devices/vfio0"},
		"/dev/vfio/../vfio//devices/vfio0":     {path: "/dev/vfio/devices/vfio0"},
		"0000:3b:00.1":                         {pci: "0000:3b:00.1"},
		"10000:3B:1F.7":                        {pci: "10000:3b:1f.7"},
		"3b:00.1":                              {pci: "0000:3b:00.1"},
		"83B8F4F2-509f-382f-3c1e-e6bfe0fa1001": {mdev: "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"},
	} {
		if got, err := parseAddress(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "vfio0", "0000:3b:00", "0000:3b:20.0", "0000:3b:00.8", "3b:00.1/..", "../x", "/a\x00b"} {
		if got, err := parseAddress(s); err == nil {
			t.Errorf("%q: parsed as %+v", s, got)
		}
	}
}

// FuzzParseAddress checks that an accepted name has one stable form, which
// cannot leave its directory in sysfs.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"/dev/vfio/devices/vfio0", "0000:3b:00.1", "3b:00.1", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "vfio0", "../..",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			if a != (address{}) {
				t.Fatalf("%q: error and %+v", s, a)
			}
			return
		}
		canonical := a.path + a.pci + a.mdev
		if again, err := parseAddress(canonical); err != nil || again != a {
			t.Fatalf("%q: %+v, but its canonical form gives %+v, %v", s, a, again, err)
		}
		if name := a.pci + a.mdev; strings.ContainsAny(name, "/\x00") || name == ".." {
			t.Fatalf("%q: %q leaves its directory", s, name)
		}
		if a.path != "" && path.Clean(a.path) != a.path {
			t.Fatalf("%q: %q is not clean", s, a.path)
		}
	})
}
