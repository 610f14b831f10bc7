package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountAll mounts the kernel's file systems. debugfs is not in every kernel.
func mountAll() error {
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"tmpfs", "/tmp"},
		{"debugfs", "/sys/kernel/debug"},
	} {
		err := os.MkdirAll(m.dir, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.dir, m.kind, 0, "")
		}
		if err != nil && m.kind != "debugfs" {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	return nil
}

// loadModules loads /modules in the order of its list, written by build.sh.
func loadModules() error {
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w (see the kernel's log on the console)", name, err)
		}
	}
	return nil
}

// interfaceUp gives a network interface its address and switches it on.
func interfaceUp(name, address, mask string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return setAddress(r, address) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return setAddress(r, mask) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		req, err := unix.NewIfreq(name)
		if err == nil {
			err = step.set(req)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, step.request, req)
		}
		if err != nil {
			return fmt.Errorf("interface %s, address %q: %w", name, address, err)
		}
	}
	return nil
}

// holdGRO opens a UDP socket with UDP_GRO for as long as the guest runs. The first such socket,
// and the close of the last, patch the code of udp4_gro_receive (the static key
// udp_encap_needed_key, net/ipv4/udp.c). A guest under TCG has run into the breakpoint of the
// patch on its other CPU, and panicked: "Oops: int3".
func holdGRO() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}
	if err != nil {
		return fmt.Errorf("a UDP socket with UDP_GRO: %w", err)
	}
	return nil
}

func setAddress(req *unix.Ifreq, dotted string) error {
	var a [4]byte
	if _, err := fmt.Sscanf(dotted, "%d.%d.%d.%d", &a[0], &a[1], &a[2], &a[3]); err != nil {
		return fmt.Errorf("not an IPv4 address: %w", err)
	}
	return req.SetInet4Addr(a[:])
}

// openSerial opens a serial port as a clean byte stream: no echo, no signals
// from control characters, no newline translation.
func openSerial(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	raw := unix.Termios{
		Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200,
	}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, &raw); err != nil {
		port.Close()
		return nil, fmt.Errorf("make %s raw: %w", path, err)
	}
	return port, nil
}
