package vfio

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// secondName is another device in the IOMMU group of pciName.
const secondName = "0000:3b:00.2"

func addSecond(t *testing.T, root tree) {
	t.Helper()
	pci := root.at("sys/devices/pci0000:3a/" + secondName)
	write(t, filepath.Join(pci, "vendor"), "0x15b3\n")
	link(t, pci, root.at("sys/bus/pci/devices", secondName))
	link(t, "../../../kernel/iommu_groups/12", filepath.Join(pci, "iommu_group"))
}

// TestSharedGroup: two devices of one IOMMU group open it once, and the last closes it.
func TestSharedGroup(t *testing.T) {
	k, o := fakeOpener(t)
	addSecond(t, o.tree)
	var devices [2]*device
	var errs [2]error
	var both sync.WaitGroup
	for i, name := range []string{pciName, secondName} {
		both.Go(func() { devices[i], errs[i] = o.openName(name) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	group, container := "open "+o.at("dev/vfio/12"), "open "+o.at("dev/vfio/vfio")
	if k.count(group) != 1 || k.count(container) != 1 || k.count("ioctl 0x3b6a") != 2 || len(k.files) != 4 {
		t.Errorf("open: %v, calls %v", k.files, k.calls)
	}
	_ = devices[0].Close()
	_ = devices[0].Close()
	if len(k.files) != 3 {
		t.Errorf("after the first was closed: %v", k.files)
	}
	if _, err := devices[1].State(); err != nil {
		t.Errorf("the second: %v", err)
	}
	_ = devices[1].Close()
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
	if d, err := o.openName(pciName); err != nil || k.count(group) != 2 {
		t.Errorf("opened again: %v, calls %v", err, k.calls)
	} else {
		_ = d.Close()
	}
}

// TestSharedGroupFails: a second device that cannot be opened leaves the first as it is.
func TestSharedGroupFails(t *testing.T) {
	k, o := fakeOpener(t)
	addSecond(t, o.tree)
	d, err := o.openName(pciName)
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"ioctl 0x3b6a", "migration"} {
		k.fail(call, unix.ENODEV)
		if _, err := o.openName(secondName); err == nil || len(k.files) != 3 {
			t.Errorf("%s failed: %v, open: %v", call, err, k.files)
		}
	}
	if _, err := d.State(); err != nil {
		t.Errorf("the first: %v", err)
	}
	_ = d.Close()
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
}

// TestOpenTwice: one process does not open a device twice, whatever it calls it.
func TestOpenTwice(t *testing.T) {
	for _, cdev := range []bool{false, true} {
		k, o := fakeOpener(t)
		if cdev {
			giveCdev(t, o.tree, "pci0000:3a/"+pciName)
		}
		d, err := o.openName(pciName)
		if err != nil {
			t.Fatal(err)
		}
		before := len(k.files)
		_, err = o.openName(strings.ToUpper(pciName))
		err = openError("again", err)
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "this process has it open already, as "+pciName) || len(k.files) != before {
			t.Errorf("cdev %v: %v, open: %v", cdev, err, k.files)
		}
		_ = d.Close()
		if d, err = o.openName(pciName); err != nil {
			t.Errorf("after it was closed: %v", err)
		} else {
			_ = d.Close()
		}
	}
}

// TestNoIOMMU: a device without an IOMMU is refused with the reason.
func TestNoIOMMU(t *testing.T) {
	k, o := fakeOpener(t)
	write(t, o.at("sys/kernel/iommu_groups/12/name"), "vfio-noiommu\n")
	_, err := o.openName(pciName)
	err = openError(pciName, err)
	checkOpenError(t, k, err, ErrNoMigration, "enable the IOMMU")
	if !strings.Contains(err.Error(), "IOMMU group 12 has no IOMMU behind it") || len(k.calls) != 0 {
		t.Errorf("%v, calls %v", err, k.calls)
	}
	write(t, o.at("sys/kernel/iommu_groups/12/name"), "\n")
	d, err := o.openName(pciName)
	if err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
}
