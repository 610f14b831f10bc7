package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The guest opens and queries devices with its own calls, not with package vfio: a witness
// must not share the code that it checks. Numbers and layouts are those of
// include/uapi/linux/vfio.h.
const (
	ioSetIOMMU       = 0x3b66
	ioSetContainer   = 0x3b68
	ioGetDeviceFD    = 0x3b6a
	ioGetRegionInfo  = 0x3b6c
	ioReset          = 0x3b6f
	ioDeviceFeature  = 0x3b75
	ioBindIOMMUFD    = 0x3b76
	iommuType1v2     = 3
	featureGet       = 1 << 16
	featureSet       = 1 << 17
	featureMigration = 2 // VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
)

// device is a device that the guest holds as a VMM would.
type device struct {
	file   *os.File
	others []*os.File // container and group, or iommufd: held as long
}

// openDevice opens an mdev by its UUID through its group, or a cdev by its path.
func openDevice(name string) (*device, error) {
	d := new(device)
	open := d.openGroup
	if strings.HasPrefix(name, "/") {
		open = d.openCdev
	}
	if err := open(name); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *device) openGroup(uuid string) error {
	link, err := os.Readlink(filepath.Join("/sys/bus/mdev/devices", uuid, "iommu_group"))
	if err != nil {
		return err
	}
	container, err := d.hold("/dev/vfio/vfio")
	if err != nil {
		return err
	}
	group, err := d.hold(filepath.Join("/dev/vfio", filepath.Base(link)))
	if err != nil {
		return err
	}
	fd := int32(container.Fd())
	if _, err = ioctl(group, ioSetContainer, unsafe.Pointer(&fd)); err != nil {
		return fmt.Errorf("GROUP_SET_CONTAINER: %w", err)
	}
	if err := unix.IoctlSetInt(int(container.Fd()), ioSetIOMMU, iommuType1v2); err != nil {
		return fmt.Errorf("SET_IOMMU: %w", err)
	}
	cname, err := unix.BytePtrFromString(uuid)
	if err != nil {
		return err
	}
	n, err := ioctl(group, ioGetDeviceFD, unsafe.Pointer(cname))
	if err != nil {
		return fmt.Errorf("GROUP_GET_DEVICE_FD: %w", err)
	}
	d.file = os.NewFile(n, uuid)
	return nil
}

func (d *device) openCdev(path string) error {
	iommu, err := d.hold("/dev/iommu")
	if err != nil {
		return err
	}
	if d.file, err = openFile(path); err != nil {
		return err
	}
	bind := struct {
		argsz, flags uint32
		iommufd      int32
		devid        uint32
	}{argsz: 16, iommufd: int32(iommu.Fd())}
	if _, err = ioctl(d.file, ioBindIOMMUFD, unsafe.Pointer(&bind)); err != nil {
		return fmt.Errorf("DEVICE_BIND_IOMMUFD: %w", err)
	}
	return nil
}

// takeDevice duplicates the one device fd of another process. The container or
// iommufd needs no duplicate: the device keeps its own reference.
func takeDevice(pid int) (*device, error) {
	n, err := deviceFD(pid)
	if err != nil {
		return nil, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(process)
	fd, err := unix.PidfdGetfd(process, n, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd: %w", err)
	}
	return &device{file: os.NewFile(uintptr(fd), "taken")}, nil
}

// deviceFD finds the fd by its name in /proc: a device of a group has no path.
func deviceFD(pid int) (int, error) {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return -1, err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err == nil && (target == "anon_inode:[vfio-device]" || strings.HasPrefix(target, "/dev/vfio/devices/")) {
			return strconv.Atoi(filepath.Base(link))
		}
	}
	return -1, errors.New("it has none open")
}

// hold opens a file that lives as long as the device.
func (d *device) hold(path string) (*os.File, error) {
	f, err := openFile(path)
	if err == nil {
		d.others = append(d.others, f)
	}
	return f, err
}

// openFile opens a file in blocking mode. With a file of os.Open, Fd would switch the mode
// back and forth during a read.
func openFile(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (d *device) close() {
	if d.file != nil {
		d.file.Close()
	}
	for i := len(d.others) - 1; i >= 0; i-- { // the container last
		d.others[i].Close()
	}
}

// migState is VFIO_DEVICE_FEATURE with the payload of MIG_DEVICE_STATE.
type migState struct {
	argsz, flags uint32
	state        uint32
	dataFD       int32
}

func (d *device) state() (uint32, error) {
	m := migState{argsz: 16, flags: featureGet | featureMigration}
	_, err := ioctl(d.file, ioDeviceFeature, unsafe.Pointer(&m))
	return m.state, err
}

// setState moves the device and discards the data_fd, if there is one.
func (d *device) setState(to uint32) error {
	m := migState{argsz: 16, flags: featureSet | featureMigration, state: to, dataFD: -1}
	if _, err := ioctl(d.file, ioDeviceFeature, unsafe.Pointer(&m)); err != nil {
		return err
	}
	if m.dataFD >= 0 {
		unix.Close(int(m.dataFD))
	}
	return nil
}

func (d *device) reset() error {
	_, err := ioctl(d.file, ioReset, nil)
	return err
}

// access is pread or pwrite.
type access func(fd int, p []byte, offset int64) (int, error)

var readAt, writeAt access = unix.Pread, unix.Pwrite

// region accesses a region byte by byte: UART registers are one byte wide.
func (d *device) region(index uint32, offset uint64, p []byte, do access) error {
	info := struct {
		argsz, flags, index, capOffset uint32
		size, offset                   uint64
	}{argsz: 32, index: index}
	if _, err := ioctl(d.file, ioGetRegionInfo, unsafe.Pointer(&info)); err != nil {
		return fmt.Errorf("GET_REGION_INFO %d: %w", index, err)
	}
	if offset+uint64(len(p)) > info.size {
		return fmt.Errorf("region %d ends at %d", index, info.size)
	}
	for i := range p {
		at := info.offset + offset + uint64(i)
		if n, err := do(int(d.file.Fd()), p[i:i+1], int64(at)); n != 1 {
			return fmt.Errorf("region %d, offset %d: %w", index, offset+uint64(i), err)
		}
	}
	return nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) (uintptr, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}
