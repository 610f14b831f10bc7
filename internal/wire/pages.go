package wire

import (
	"errors"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page where pages have 4 KiB. Where
// pages are larger, so are those, and a mapping has some fewer of them.
const hugePage = 2 << 20

// pages is memory outside the heap, all of it in RAM.
type pages struct {
	mem     []byte // begins at a page, or at a huge one if it is as large
	mapping []byte // the addresses that it was cut from; the rest cannot be used, and costs no memory
}

// mapPages maps size bytes, of huge pages as far as the kernel gives them, and
// touches them all.
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
	// Where there are none to be had, plain pages do: an error means no more than that.
	_ = unix.Madvise(p.mem, unix.MADV_HUGEPAGE)
	return p.touch()
}

// touch has every page in RAM. A kernel before 5.14 cannot be asked to, nor to say
// that it has none.
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
