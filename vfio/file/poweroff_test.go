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

// disk is a small ext4 file system. A test can shut it down, as a loss of power does.
type disk struct {
	dir, image  string
	destination *Destination // has files open on the disk
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
		t.Skipf("SKIP: mount needs a privilege: %v %s", err, out)
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

// crash discards all data that is not on the disk (EXT4_IOC_SHUTDOWN, with
// EXT4_GOING_FLAGS_NOLOGFLUSH), and mounts the disk again, as after a restart of the host.
func (d *disk) crash(t *testing.T) {
	t.Helper()
	f, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), 0x8004587d, 2)
	f.Close()
	if h := d.destination.backend.(*pathFile).file; h != nil {
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

func sinkOn(t *testing.T, d *disk) *Destination {
	t.Helper()
	d.destination = destinationIn(t, d.dir, nil)
	return d.destination
}

// TestHostCrash checks that a complete state outlives the host, and its final name does after
// the commit. An incomplete state leaves nothing.
func TestHostCrash(t *testing.T) {
	disk := newDisk(t)
	state, note := strings.Repeat("state", 100_000), strings.Repeat("n", vfio.MaxNote)
	put(t, persist(t, sinkOn(t, disk)), state)
	disk.crash(t)
	wantFiles(t, disk.dir, nil)
	d := sinkOn(t, disk)
	wantNone(t, d)
	s := persist(t, d)
	put(t, s, state)
	mustComplete(t, s, note)
	for range 2 {
		disk.crash(t)
		d = sinkOn(t, disk)
		wantResumed(t, d, note)
	}
	set(t, d, vfio.Running)
	disk.crash(t)
	wantFiles(t, disk.dir, map[string]string{"out": state})
	wantCommitted(t, sinkOn(t, disk), note)
}
