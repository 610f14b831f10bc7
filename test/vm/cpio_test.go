package vm

import (
	"fmt"
	"io"
	"os"
)

// cpio writes an initramfs: the "newc" format, the only one the kernel reads.
type cpio struct {
	w      io.Writer
	inode  int
	offset int64
	err    error
}

// File modes of cpio, as in struct stat.
const (
	modeDir  = 0o040755
	modeFile = 0o100755
	modeLink = 0o120777
	modeChar = 0o020600
)

func (c *cpio) dir(name string) { c.entry(name, modeDir, 0, 0, 0) }

func (c *cpio) link(name, target string) {
	c.entry(name, modeLink, int64(len(target)), 0, 0)
	c.write([]byte(target))
	c.pad()
}

func (c *cpio) char(name string, major, minor int) { c.entry(name, modeChar, 0, major, minor) }

// file adds a file of the host.
func (c *cpio) file(name, from string) {
	f, err := os.Open(from)
	if err != nil {
		c.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		c.fail(err)
		return
	}
	c.entry(name, modeFile, info.Size(), 0, 0)
	n, err := io.Copy(c.w, f)
	c.offset += n
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s changed while it was read", from)
	}
	c.fail(err)
	c.pad()
}

// end writes the trailer and returns the first error.
func (c *cpio) end() error {
	c.entry("TRAILER!!!", 0, 0, 0, 0)
	return c.err
}

func (c *cpio) entry(name string, mode int, size int64, major, minor int) {
	c.inode++
	// magic, inode, mode, uid, gid, links, mtime, size, device of the file
	// system, device of the entry, length of the name with its NUL, checksum
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name))
	c.pad()
}

func (c *cpio) pad() {
	if n := c.offset % 4; n != 0 {
		c.write(make([]byte, 4-n))
	}
}

func (c *cpio) write(p []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(p)
	c.offset += int64(n)
	c.fail(err)
}

func (c *cpio) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}
