package file

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
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
	if err := syncDisk(d.dir); err != nil {
		t.Fatal(err)
	}
	return d
}

func syncDisk(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
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

func sinkOn(t *testing.T, d *disk) *Sink {
	t.Helper()
	d.sink = sinkIn(t, d.dir, nil)
	return d.sink
}

// TestHostCrash: a state that is complete outlives the host, and its name does behind the
// commit. One that is not complete leaves nothing.
func TestHostCrash(t *testing.T) {
	disk := newDisk(t)
	state, note := strings.Repeat("state", 100_000), strings.Repeat("n", vfio.MaxNote)
	put(t, persist(t, sinkOn(t, disk)), state)
	disk.crash(t)
	holds(t, disk.dir, nil)
	d := sinkOn(t, disk)
	none(t, d)
	s := persist(t, d)
	put(t, s, state)
	completes(t, s, note)
	for range 2 {
		disk.crash(t)
		d = sinkOn(t, disk)
		resumes(t, d, note)
	}
	set(t, d, vfio.Running)
	disk.crash(t)
	holds(t, disk.dir, map[string]string{"out": state})
	committed(t, sinkOn(t, disk), note)
}
