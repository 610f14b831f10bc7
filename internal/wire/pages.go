package wire

import (
	"errors"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page for pages of 4 KiB. With larger
// pages huge pages are larger too, and a mapping has somewhat fewer of them.
const hugePage = 2 << 20

// pages is resident memory outside the heap.
type pages struct {
	mem     []byte // aligned to a page, or to a huge page if it has that size
	mapping []byte // the whole mapping; the rest is inaccessible and uses no memory
}

// mapPages maps size bytes, of huge pages if the kernel has them, and makes all pages
// resident.
func mapPages(size int) (p pages, err error) {
	spare := 0
	if size >= hugePage {
		spare = hugePage
	}
	if p.mapping, err = unix.Mmap(-1, 0, size+spare, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return pages{}, err
	}
	p.mem = p.mapping[:size]
	if spare > 0 {
		begin := -int(reflect.ValueOf(p.mapping).Pointer()) & (hugePage - 1)
		p.mem = p.mapping[begin:][:size:size]
	}
	if err := p.populate(); err != nil {
		return pages{}, errors.Join(err, p.unmap())
	}
	return p, nil
}

func (p pages) populate() error {
	if err := unix.Mprotect(p.mem, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	// An error means only that the kernel has no huge pages.
	_ = unix.Madvise(p.mem, unix.MADV_HUGEPAGE)
	return p.touch()
}

// touch makes all pages resident. Kernels before 5.14 have no call for it, and so
// cannot report a lack of memory.
func (p pages) touch() error {
	if err := unix.Madvise(p.mem, unix.MADV_POPULATE_WRITE); err != unix.EINVAL {
		return err
	}
	for i := 0; i < len(p.mem); i += os.Getpagesize() {
		p.mem[i] = 0
	}
	return nil
}

func (p pages) unmap() error { return unix.Munmap(p.mapping) }
