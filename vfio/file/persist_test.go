package file

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/vfiotest"
)

// id is the session that the tests persist, and leftover the name of its file.
const id, leftover = "6d1f-A", ".out.6d1f-A.resumable"

// destinationIn opens a destination for the file "out" in dir.
func destinationIn(t testing.TB, dir string, o *DestinationOptions) *Destination {
	t.Helper()
	return destination(t, filepath.Join(dir, "out"), o)
}

func persist(t testing.TB, d *Destination) vfio.Persistent {
	t.Helper()
	s, err := d.Persist(id)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("SKIP: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// crash closes the destination's file, as the end of the process would.
func crash(t testing.TB, d *Destination) {
	t.Helper()
	if err := d.backend.(*pathFile).file.f.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, s vfio.Stream, data string) {
	t.Helper()
	if _, err := s.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

func mustComplete(t testing.TB, s vfio.Persistent, note string) {
	t.Helper()
	if err := s.Complete([]byte(note)); err != nil {
		t.Fatal(err)
	}
}

func wantResumed(t testing.TB, d *Destination, note string) {
	t.Helper()
	got, err := d.Resume(id)
	if err != nil || string(got) != note {
		t.Fatalf("resumed with %q, %v, want %q", got, err, note)
	}
	if now, _ := d.State(); now != vfio.Stop {
		t.Errorf("device is in %v", now)
	}
}

// wantCommitted checks that Resume finds the record of a committed session.
func wantCommitted(t testing.TB, d *Destination, note string) {
	t.Helper()
	got, err := d.Resume(id)
	if !errors.Is(err, vfio.ErrCommitted) || string(got) != note {
		t.Errorf("resumed with %q, %v, want ErrCommitted with %q", got, err, note)
	}
	if now, err := d.State(); now != vfio.Running || err != nil {
		t.Errorf("device is in %v, %v", now, err)
	}
}

func mustRemove(t testing.TB, d *Destination) {
	t.Helper()
	if err := d.Remove(id); err != nil {
		t.Error(err)
	}
}

// wantNone checks that no session can be resumed, and that the device's state does not change.
func wantNone(t testing.TB, d *Destination) {
	t.Helper()
	before, _ := d.State()
	if _, err := d.Resume(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resumed: %v, want ErrNotExist", err)
	}
	if now, err := d.State(); now != before || err != nil {
		t.Errorf("device went from %v to %v, %v", before, now, err)
	}
}

// leaveComplete leaves the file that a crash after Complete leaves.
func leaveComplete(t testing.TB, dir string) {
	t.Helper()
	d := destinationIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "state")
	mustComplete(t, s, "all")
	crash(t, d)
}

// TestResume checks that a complete state outlives a crash in RESUMING and in STOP.
func TestResume(t *testing.T) {
	for _, at := range []vfio.State{vfio.Resuming, vfio.Stop} {
		dir := t.TempDir()
		d := destinationIn(t, dir, nil)
		s := persist(t, d)
		put(t, s, "state")
		mustComplete(t, s, "all")
		if at == vfio.Stop {
			set(t, d, vfio.Stop)
		}
		crash(t, d)
		wantFiles(t, dir, map[string]string{leftover: "state"})
		d = destinationIn(t, dir, nil)
		wantResumed(t, d, "all")
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": "state"})
		wantCommitted(t, d, "all")
		mustRemove(t, d)
		if n, err := unix.Getxattr(filepath.Join(dir, "out"), attribute, nil); !errors.Is(err, unix.ENODATA) {
			t.Errorf("the file has a record of %d bytes, %v", n, err)
		}
		if err := s.Complete(nil); !errors.Is(err, vfio.ErrSessionLost) && !errors.Is(err, os.ErrClosed) {
			t.Errorf("late completion: %v", err)
		}
	}
}

// TestPartIsNotPersisted checks that a crash before Complete leaves no file under any name,
// whether or not the file system has files without a name.
func TestPartIsNotPersisted(t *testing.T) {
	for name, create := range map[string]func(dir, base string) (*hiddenFile, error){"unnamed": createHidden, "named": createNamed} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := destinationIn(t, dir, nil)
			d.backend.(*pathFile).create = create
			put(t, persist(t, d), "sta")
			other := destinationIn(t, dir, nil)
			other.backend.(*pathFile).create = create
			put(t, persist(t, other), "state") // while the first session is open
			crash(t, d)
			crash(t, other)
			d = destinationIn(t, dir, nil)
			d.backend.(*pathFile).create = create
			wantNone(t, d)
			if all, err := d.Persisted(); err != nil || len(all) > 0 {
				t.Errorf("persisted: %v, %v", all, err)
			}
			s := persist(t, d)
			put(t, s, "again")
			mustComplete(t, s, "all")
			set(t, d, vfio.Running)
			wantFiles(t, dir, map[string]string{"out": "again"})
		})
	}
}

// TestCommitWithoutComplete checks that such a commit leaves no record, since Complete was not
// called.
func TestCommitWithoutComplete(t *testing.T) {
	dir := t.TempDir()
	d := destinationIn(t, dir, nil)
	put(t, persist(t, d), "state")
	set(t, d, vfio.Running)
	wantFiles(t, dir, map[string]string{"out": "state"})
	wantNone(t, d)
}

// TestCommitted checks that a crash after the commit leaves the record, by which a later
// process knows whose file it is. Until Remove, another session without overwrite fails, since
// the name is taken.
func TestCommitted(t *testing.T) {
	for _, overwrite := range []bool{false, true} {
		dir, o := t.TempDir(), &DestinationOptions{Overwrite: overwrite}
		if overwrite {
			write(t, filepath.Join(dir, "out"), "old")
		}
		d := destinationIn(t, dir, o)
		s := persist(t, d)
		put(t, s, "state")
		mustComplete(t, s, "all")
		set(t, d, vfio.Running) // without Close
		d = destinationIn(t, dir, o)
		broken := errors.New("the directory cannot be synced")
		d.backend.(*pathFile).syncDir = func(*os.File) error { return broken }
		if _, err := d.Resume(id); !errors.Is(err, broken) || errors.Is(err, vfio.ErrCommitted) {
			t.Errorf("resume although the name is not durable: %v", err)
		}
		d = destinationIn(t, dir, o)
		wantCommitted(t, d, "all")
		if _, err := d.Resume("another"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("resume another: %v", err)
		}
		if all, err := d.Persisted(); err != nil || len(all) != 1 || all[0].ID != id || time.Since(all[0].Since) > time.Minute {
			t.Errorf("persisted: %v, %v", all, err)
		}
		if _, err := d.Persist("another"); !overwrite && !errors.Is(err, fs.ErrExist) {
			t.Errorf("persist another: %v", err)
		}
		if now, _ := d.State(); !overwrite && now != vfio.Running {
			t.Errorf("device is in %v", now)
		}
		d.Reset()
		if _, err := d.SetState(vfio.Resuming); !overwrite && !errors.Is(err, fs.ErrExist) {
			t.Errorf("RESUMING without Persist: %v", err)
		}
		d.Reset()
		mustRemove(t, d)
		wantNone(t, d)
		wantFiles(t, dir, map[string]string{"out": "state"})
		if _, err := NewDestination(filepath.Join(dir, "out"), nil); !errors.Is(err, fs.ErrExist) {
			t.Errorf("new destination: %v", err)
		}
	}
}

// TestCrashInTheCommit checks both states that a crash during a commit may leave. If the file
// system has no RENAME_NOREPLACE, the file has both names. After an exchange, the hidden name
// holds the old file. Remove removes both.
func TestCrashInTheCommit(t *testing.T) {
	for name, crashed := range map[string]func(hidden, out string) error{
		"link":     os.Link,
		"exchange": func(hidden, out string) error { write(t, out, "old"); return exchange(hidden, out) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := destinationIn(t, dir, nil)
			s := persist(t, d)
			put(t, s, "state")
			mustComplete(t, s, "all")
			set(t, d, vfio.Stop)
			if err := crashed(filepath.Join(dir, leftover), filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
			crash(t, d)
			d = destinationIn(t, dir, nil)
			wantCommitted(t, d, "all")
			mustRemove(t, d)
			wantFiles(t, dir, map[string]string{"out": "state"})
		})
	}
}

// TestDetach checks that Detach and Close leave a complete state, as a crash does, and discard an
// incomplete one.
func TestDetach(t *testing.T) {
	for name, leave := range map[string]func(*Destination) error{"detach": (*Destination).Detach, "close": (*Destination).Close} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := destinationIn(t, dir, nil)
			put(t, persist(t, d), "sta")
			if err := leave(d); err != nil {
				t.Fatal(err)
			}
			wantFiles(t, dir, nil)
			d = destinationIn(t, dir, nil)
			s := persist(t, d)
			put(t, s, "state")
			mustComplete(t, s, "all")
			for range 2 {
				if err := leave(d); err != nil {
					t.Fatal(err)
				}
				if err := s.Complete(nil); !errors.Is(err, vfio.ErrSessionLost) {
					t.Errorf("late completion: %v", err)
				}
				wantFiles(t, dir, map[string]string{leftover: "state"})
				d = destinationIn(t, dir, nil)
				wantResumed(t, d, "all")
			}
			// A session that cannot begin does not end the open one.
			write(t, filepath.Join(dir, "out"), "another file")
			if _, err := d.SetState(vfio.Resuming); !errors.Is(err, fs.ErrExist) {
				t.Errorf("RESUMING: %v", err)
			}
			os.Remove(filepath.Join(dir, "out"))
			set(t, d, vfio.Running)
			wantFiles(t, dir, map[string]string{"out": "state"})
		})
	}
}

func TestResumeOverAFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "out"), "old")
	d := destinationIn(t, dir, &DestinationOptions{Overwrite: true})
	s := persist(t, d)
	put(t, s, "new")
	mustComplete(t, s, "all")
	crash(t, d)
	d = destinationIn(t, dir, &DestinationOptions{Overwrite: true})
	wantResumed(t, d, "all")
	wantFiles(t, dir, map[string]string{leftover: "new", "out": "old"})
	set(t, d, vfio.Running)
	wantFiles(t, dir, map[string]string{"out": "new"})
}

// TestNothingIsPersisted checks that no file remains after Reset, after another session, and if
// SetState has begun the session.
func TestNothingIsPersisted(t *testing.T) {
	for name, leave := range map[string]func(d *Destination) error{
		"reset": (*Destination).Reset,
		"another session": func(d *Destination) error {
			_, err := d.SetState(vfio.Resuming)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leaveComplete(t, dir)
			d := destinationIn(t, dir, nil)
			wantResumed(t, d, "all")
			if err := leave(d); err != nil {
				t.Error(err)
			}
			d.Close()
			wantFiles(t, dir, nil)
			wantNone(t, destinationIn(t, dir, nil))
		})
	}
	dir := t.TempDir()
	d := destinationIn(t, dir, nil)
	s := set(t, d, vfio.Resuming)
	if _, ok := s.(vfio.Persistent); ok {
		t.Error("a session of SetState is a vfio.Persistent")
	}
	put(t, s, "state")
	crash(t, d)
	wantFiles(t, dir, nil)
}

// TestDamagedRecord cuts a record at every byte, and changes every byte. A damaged record is not
// accepted, and the file stays.
func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	leaveComplete(t, dir)
	path := filepath.Join(dir, leftover)
	good := record{id, 5, []byte("all")}.encode()
	for i := range good {
		changed := bytes.Clone(good)
		changed[i] ^= 0x10
		for _, bad := range [][]byte{good[:i], changed} {
			if err := unix.Setxattr(path, attribute, bad, 0); err != nil {
				t.Fatal(err)
			}
			wantNone(t, destinationIn(t, dir, nil))
		}
	}
	unix.Setxattr(path, attribute, make([]byte, maxRecord+1), 0)
	wantNone(t, destinationIn(t, dir, nil))
	unix.Removexattr(path, attribute)
	wantNone(t, destinationIn(t, dir, nil))
	unix.Setxattr(path, attribute, record{"another", 5, nil}.encode(), 0)
	wantNone(t, destinationIn(t, dir, nil))
	wantFiles(t, dir, map[string]string{leftover: "state"})
	unix.Setxattr(path, attribute, good, 0)
	wantResumed(t, destinationIn(t, dir, nil), "all")
}

// TestUnknownRecord checks that a record of a newer program is an error other than ErrNotExist,
// so that no caller discards the session.
func TestUnknownRecord(t *testing.T) {
	dir := t.TempDir()
	leaveComplete(t, dir)
	b := record{id, 5, nil}.encode()
	b[atVersion]++
	unix.Setxattr(filepath.Join(dir, leftover), attribute, resum(b), 0)
	_, err := destinationIn(t, dir, nil).Resume(id)
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "version 2, this program knows 1") {
		t.Errorf("resumed: %v", err)
	}
}

// TestTruncatedData checks that a file which lacks a byte is no complete session, and that bytes
// behind the end of the state are dropped.
func TestTruncatedData(t *testing.T) {
	for n, want := range []string{4: "", 5: "state", 6: "state"} {
		if n < 4 {
			continue
		}
		dir := t.TempDir()
		leaveComplete(t, dir)
		if err := os.Truncate(filepath.Join(dir, leftover), int64(n)); err != nil {
			t.Fatal(err)
		}
		d := destinationIn(t, dir, nil)
		if want == "" {
			wantNone(t, d)
			continue
		}
		wantResumed(t, d, "all")
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": want})
	}
}

// TestCrashesAnywhere makes random writes and crashes. It expects the written file if the session
// was completed, and otherwise no file.
func TestCrashesAnywhere(t *testing.T) {
	top := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(top, "")
		if err != nil {
			t.Fatal(err)
		}
		d := destinationIn(t, dir, nil)
		s := persist(t, d)
		var written string
		for range rapid.IntRange(0, 5).Draw(rt, "writes") {
			n := rapid.IntRange(1, 9000).Draw(rt, "bytes")
			if rapid.Bool().Draw(rt, "zeros") {
				if err := s.(vfio.ZeroWriter).WriteZeros(n); err != nil {
					rt.Fatal(err)
				}
				written += strings.Repeat("\x00", n)
				continue
			}
			put(t, s, strings.Repeat("x", n))
			written += strings.Repeat("x", n)
		}
		note := rapid.StringN(-1, -1, vfio.MaxNote).Draw(rt, "note")
		if !rapid.Bool().Draw(rt, "complete") {
			crash(t, d)
			wantFiles(t, dir, nil)
			return
		}
		mustComplete(t, s, note)
		for range rapid.IntRange(0, 3).Draw(rt, "crashes") {
			crash(t, d)
			d = destinationIn(t, dir, nil)
			wantResumed(t, d, note)
		}
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": written})
		d.Close()
	})
}

// TestKilled kills a process before and after Complete.
func TestKilled(t *testing.T) {
	const inside = "MIGPIPE_TEST_KILLED"
	if dir, isComplete := strings.CutSuffix(os.Getenv(inside), " complete"); dir != "" {
		s := persist(t, destinationIn(t, dir, nil))
		put(t, s, "state")
		if isComplete {
			mustComplete(t, s, "all")
		}
		os.Stdout.WriteString("written\n")
		select {}
	}
	removable := destinationIn(t, t.TempDir(), nil)
	persist(t, removable) // skips the test if the file system cannot
	for _, end := range []string{"", " complete"} {
		dir := t.TempDir()
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKilled$")
		cmd.Env = append(os.Environ(), inside+"="+dir+end)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		d := destinationIn(t, dir, nil)
		_, meanwhile := d.Resume(id)
		cmd.Process.Kill()
		cmd.Wait()
		want := fs.ErrNotExist
		if end != "" {
			want = vfio.ErrBusy
		}
		if line != "written\n" || err != nil || !errors.Is(meanwhile, want) {
			t.Fatalf("child: %q, %v; Resume before it ends: %v, want %v", line, err, meanwhile, want)
		}
		if end == "" {
			wantFiles(t, dir, nil)
			wantNone(t, d)
			continue
		}
		wantResumed(t, d, "all")
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": "state"})
	}
}

// TestPersistedIsBusy checks that every method fails with ErrBusy while a session is open, in a
// second process and in the same one.
func TestPersistedIsBusy(t *testing.T) {
	dir := t.TempDir()
	d := destinationIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "state")
	mustComplete(t, s, "all")
	other := destinationIn(t, dir, nil)
	for name, busy := range map[string]func() error{
		"persist":         func() error { _, err := other.Persist(id); return err },
		"resume":          func() error { _, err := other.Resume(id); return err },
		"remove":          func() error { return other.Remove(id) },
		"persist its own": func() error { _, err := d.Persist(id); return err },
		"resume its own":  func() error { _, err := d.Resume(id); return err },
		"resume another":  func() error { _, err := d.Resume("other"); return err },
		"remove its own":  func() error { return d.Remove(id) },
	} {
		if err := busy(); !errors.Is(err, vfio.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	set(t, d, vfio.Running)
	wantFiles(t, dir, map[string]string{"out": "state"})
}

// TestTwoComplete checks that only the first of two processes can complete the same session.
func TestTwoComplete(t *testing.T) {
	dir := t.TempDir()
	d, other := destinationIn(t, dir, nil), destinationIn(t, dir, nil)
	s, second := persist(t, d), persist(t, other)
	put(t, s, "state")
	put(t, second, "other")
	mustComplete(t, s, "all")
	if err := second.Complete(nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second completion: %v", err)
	}
	other.Reset()
	crash(t, d)
	wantResumed(t, destinationIn(t, dir, nil), "all")
}

// TestLockOfRemovedName checks the case that another process removes the name between the open
// and the lock.
func TestLockOfRemovedName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.Remove(path)
	if err := lockNamed(f, path); !errors.Is(err, vfio.ErrBusy) {
		t.Errorf("the name is removed: %v", err)
	}
	write(t, path, "another")
	if err := lockNamed(f, path); !errors.Is(err, vfio.ErrBusy) {
		t.Errorf("the name is that of another file: %v", err)
	}
}

// TestOtherMigrationsAreSpared checks that a session does not touch the file of another, nor the
// target of a link with such a name.
func TestOtherMigrationsAreSpared(t *testing.T) {
	dir := t.TempDir()
	leaveComplete(t, dir)
	d := destinationIn(t, dir, nil)
	if _, err := d.Resume("other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resumed: %v", err)
	}
	if err := d.Remove("other"); err != nil {
		t.Error(err)
	}
	s, err := d.Persist("other")
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "other")
	mustComplete(t, s, "")
	d.Reset()
	put(t, set(t, d, vfio.Resuming), "third")
	set(t, d, vfio.Running)
	wantFiles(t, dir, map[string]string{leftover: "state", "out": "third"})
	link := filepath.Join(dir, ".out.link.resumable")
	if err := os.Symlink(leftover, link); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("link"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: %v", err)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	leaveComplete(t, dir)
	d := destinationIn(t, dir, nil)
	for range 2 {
		mustRemove(t, d)
		wantFiles(t, dir, nil)
	}
	leaveComplete(t, dir)
	s := persist(t, d) // replaces the complete session
	wantFiles(t, dir, nil)
	put(t, s, "new")
	mustComplete(t, s, "newer")
	crash(t, d)
	wantResumed(t, destinationIn(t, dir, nil), "newer")
}

// TestCompleteFails checks that no Complete, Write or commit succeeds after a failed Complete,
// since the disk may have lost data, and that no file remains.
func TestCompleteFails(t *testing.T) {
	dir := t.TempDir()
	d := destinationIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "state")
	s.(*persistent).store = func(*os.File, record) error { return unix.EIO }
	if err := s.Complete([]byte("5")); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "out: complete at byte 5") {
		t.Errorf("complete: %v", err)
	}
	s.(*persistent).store = storeRecord
	again := s.Complete(nil)
	_, more := s.Write([]byte("x"))
	_, stop := d.SetState(vfio.Stop)
	for _, err := range []error{again, more, stop} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("after a failed completion: %v", err)
		}
	}
	crash(t, d)
	wantFiles(t, dir, nil)

	d = destinationIn(t, dir, nil)
	s = persist(t, d)
	failOnce(&d.backend.(*pathFile).syncDir, unix.EIO)
	lost := s.Complete(nil)
	_, stop = d.SetState(vfio.Stop)
	for _, err := range []error{lost, stop} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("after a failed sync of the directory: %v", err)
		}
	}
	d.Reset()
	wantFiles(t, dir, nil)
}

func TestNoteTooLong(t *testing.T) {
	d := destinationIn(t, t.TempDir(), nil)
	mustComplete(t, persist(t, d), strings.Repeat("n", vfio.MaxNote))
	d.Reset()
	if err := persist(t, d).Complete(make([]byte, vfio.MaxNote+1)); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "513 bytes, at most 512") {
		t.Errorf("complete: %v", err)
	}
}

// TestDiskIsFull checks that no file remains if the disk is too small for the state.
func TestDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIP: mount needs a privilege: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	d := destinationIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "sta")
	if _, err := s.Write(make([]byte, 128<<10)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := s.Complete(nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("completion after a failed write: %v", err)
	}
	crash(t, d)
	wantFiles(t, dir, nil)
	d = destinationIn(t, dir, nil)
	s = persist(t, d)
	put(t, s, "state")
	mustComplete(t, s, "")
	set(t, d, vfio.Running)
	wantFiles(t, dir, map[string]string{"out": "state"})
}

// TestPersistFails checks that a failed Persist leaves no file and does not change the state.
func TestPersistFails(t *testing.T) {
	dir := t.TempDir()
	d := destinationIn(t, dir, nil)
	persist(t, d)
	d.Reset()
	long, err := NewDestination(filepath.Join(dir, strings.Repeat("n", 250)), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, name := long.Persist(id)
	r, w := pipe(t)
	defer unix.Close(r)
	stream, err := ToFD(w, "a pipe")
	if err != nil {
		t.Fatal(err)
	}
	_, onFD := stream.Persist(id)
	_, fromFD := stream.Resume(id)
	_, empty := d.Persist("")
	_, slash := d.Persist("../x")
	stream.Close()
	long.Close()
	_, closed := long.Persist(id)
	for name, tt := range map[string]struct{ got, want error }{
		"name too long": {name, errors.ErrUnsupported},
		"pipe":          {onFD, errors.ErrUnsupported}, "resume of a pipe": {fromFD, errors.ErrUnsupported},
		"no id": {empty, unix.EINVAL}, "path as id": {slash, unix.EINVAL}, "closed": {closed, os.ErrClosed},
	} {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("%s: %v, want %v", name, tt.got, tt.want)
		}
	}
	if now, _ := d.State(); now != vfio.Running {
		t.Errorf("device is in %v", now)
	}
	wantFiles(t, dir, nil)
}

// persistentDestination is a Destination whose sessions are all persistent.
type persistentDestination struct{ *Destination }

func (d persistentDestination) SetState(to vfio.State) (vfio.Stream, error) {
	now, err := d.State()
	if err == nil && vfio.OpensSession(now, to) && to == vfio.Resuming {
		return d.Persist(id)
	}
	return d.Destination.SetState(to)
}

func TestConformanceOfPersistent(t *testing.T) {
	dir := t.TempDir()
	persist(t, destinationIn(t, t.TempDir(), nil))
	in, out := write(t, filepath.Join(dir, "in"), strings.Repeat("a state. ", 50_000)), filepath.Join(dir, "out")
	vfiotest.Run(t, vfiotest.Config{
		Source: func(t *testing.T) vfio.Device { d, _ := NewSource(in); return d },
		Destination: func(t *testing.T) vfio.Device {
			d, err := NewDestination(out, &DestinationOptions{Overwrite: true})
			if err != nil {
				t.Fatal(err)
			}
			return persistentDestination{d}
		},
		Verify: func(t *testing.T, _, destination vfio.Device) {
			set(t, destination, vfio.Running)
			want, _ := os.ReadFile(in)
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
			}
		},
	})
}

func TestSpliceIntoPersistent(t *testing.T) {
	dir := t.TempDir()
	d := destinationIn(t, dir, nil)
	s := persist(t, d)
	r, w := pipe(t)
	defer unix.Close(r)
	unix.Write(w, []byte("state"))
	unix.Close(w)
	if n, err := s.(interface {
		SpliceFrom(pipe, n int) (int, error)
	}).SpliceFrom(r, 9); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	mustComplete(t, s, "5")
	set(t, d, vfio.Running)
	wantFiles(t, dir, map[string]string{"out": "state"})
}

// resum returns a changed record with a new checksum.
func resum(b []byte) []byte {
	r := bytes.Clone(b[:len(b)-sumLen])
	return appendSum(r)
}

// FuzzRecord checks that every accepted record encodes to the same bytes.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{{}, {id, 3, []byte("note")}, {strings.Repeat("i", maxID), 1 << 62, make([]byte, vfio.MaxNote)}} {
		f.Add(r.encode(), false)
		f.Add(r.encode(), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, fixSum bool) {
		if fixSum && len(b) >= sumLen {
			b = resum(b)
		}
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if len(r.id) > maxID || len(r.note) > vfio.MaxNote || int64(r.offset) < 0 || !bytes.Equal(r.encode(), b) {
			t.Fatalf("%x is %+v", b, r)
		}
	})
}

// BenchmarkComplete measures a persistent session of 1 MiB.
func BenchmarkComplete(b *testing.B) {
	d := destinationIn(b, b.TempDir(), nil)
	data, note := make([]byte, 1<<20), make([]byte, 250)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s := persist(b, d)
		if _, err := s.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := s.Complete(note); err != nil {
			b.Fatal(err)
		}
		if err := d.Reset(); err != nil {
			b.Fatal(err)
		}
	}
}
