package wire

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPipesAreShared: chunks that are spliced one after the other need one pipe,
// not one each.
func TestPipesAreShared(t *testing.T) {
	arena, err := NewArena(1<<20, 4096, 16)
	if err != nil {
		t.Fatal(err)
	}
	before := openFDs(t)
	for range 3 * arena.Count() {
		c, err := arena.TryGet()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.Splice(pipeFiller{}, 100); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		if err := c.Unsplice(); err != nil {
			t.Fatal(err)
		}
		c.Release()
	}
	if n := openFDs(t) - before; n != 2 {
		t.Errorf("%d descriptors are open, a pipe has 2", n)
	}
	if err := arena.Close(); err != nil {
		t.Fatal(err)
	}
	if n := openFDs(t) - before; n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

// pipeFiller has zeros for every pipe.
type pipeFiller struct{}

func (pipeFiller) SpliceTo(pipe, n int) (int, error) { return unix.Write(pipe, make([]byte, n)) }

func openFDs(t *testing.T) int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
