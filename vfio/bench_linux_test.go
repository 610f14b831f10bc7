package vfio

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkCall measures the overhead of a call on a device: the descriptor's lock, and the
// blocking and unblocking of all signals. Files replace the device: a read of /dev/zero and a
// write to /dev/null return at once, and /dev/null supports no ioctl. "bare" measures the system
// call alone.
func BenchmarkCall(b *testing.B) {
	zero, null := openFile(b, "/dev/zero"), openFile(b, "/dev/null")
	source := &stream{fd: descriptor{kernel: host{}, fd: zero}}
	destination := &stream{fd: descriptor{kernel: host{}, fd: null}}
	page, chunk := make([]byte, 4<<10), make([]byte, 1<<20)
	for _, c := range []struct {
		name string
		call func() error
	}{
		{"read-4KiB/bare", func() error { _, err := unix.Read(zero, page); return err }},
		{"read-4KiB/stream", func() error { _, err := source.Read(page); return err }},
		{"read-1MiB/bare", func() error { _, err := unix.Read(zero, chunk); return err }},
		{"read-1MiB/stream", func() error { _, err := source.Read(chunk); return err }},
		{"write/bare", func() error { _, err := unix.Write(null, chunk); return err }},
		{"write/stream", func() error { _, err := destination.Write(chunk); return err }},
		{"pending", func() error {
			info := precopyInfo{argsz: 24}
			if err := destination.fd.call(reqMigGetPrecopyInfo, &info); !errors.Is(err, unix.ENOTTY) {
				return err
			}
			return nil
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if err := c.call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func openFile(b *testing.B, path string) int {
	b.Helper()
	fd, err := host{}.open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	return fd
}
