package file

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/vfio"
	"golang.org/x/sys/unix"
)

// disk is a small ext4 that can be cut off, as by a host that loses its power.
type disk struct {
	dir, image string
	sink       *Sink // what has files open there
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{dir: t.TempDir(), image: filepath.Join(t.TempDir(), "image")}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 16<<20); err != nil {
		t.Fatal(err)
	}
	// The smallest blocks have the least room for attributes.
	if out, err := exec.Command("mkfs.ext4", "-q", "-b", "1024", d.image).CombinedOutput(); err != nil {
		t.Skipf("SKIP: mkfs.ext4: %v %s", err, out)
	}
	if out, err := d.mount(); err != nil {
		t.Skipf("SKIP: a disk of our own needs a privilege: %v %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) })
	os.Remove(filepath.Join(d.dir, "lost+found"))
	return d
}

func (d *disk) mount() ([]byte, error) {
	return exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput()
}

// crash throws away all that is not on the disk (EXT4_IOC_SHUTDOWN, with
// EXT4_GOING_FLAGS_NOLOGFLUSH), and gives the disk as it is when the host is back.
func (d *disk) crash(t *testing.T) {
	t.Helper()
	f, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), 0x8004587d, 2)
	f.Close()
	if h := d.sink.ends.(*pathEnd).file; h != nil {
		h.f.Close()
	}
	if err == nil {
		err = unix.Unmount(d.dir, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := d.mount(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

func keeperOn(t *testing.T, d *disk) *Sink {
	t.Helper()
	d.sink = keeper(t, d.dir, nil)
	return d.sink
}

// TestHostCrash loses what was not synced, and nothing else: the first Sync is that of
// Keep, with a file that the disk has just got.
func TestHostCrash(t *testing.T) {
	disk := newDisk(t)
	const step = 100_000
	state := strings.Repeat("state", step)
	note := func(at int) string { return fmt.Sprintf("%0*d", vfio.MaxNote, at) }
	put(t, keep(t, keeperOn(t, disk), note(0)), "this is lost")
	for at := step; at < len(state); at += step {
		disk.crash(t)
		s := resumes(t, keeperOn(t, disk), uint64(at-step), note(at-step))
		put(t, s, state[at-step:at])
		syncs(t, s, note(at))
		put(t, s, "this is lost")
	}
	disk.crash(t)
	d := keeperOn(t, disk)
	put(t, resumes(t, d, uint64(len(state)-step), note(len(state)-step)), state[len(state)-step:])
	set(t, d, vfio.Running)
	disk.crash(t)
	holds(t, disk.dir, map[string]string{"out": state})
}
