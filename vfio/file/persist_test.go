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

// id and leftover are the session that the tests persist, and its file.
const id, leftover = "6d1f-A", ".out.6d1f-A.resumable"

// sinkIn opens a sink in dir whose complete sessions outlive it there.
func sinkIn(t testing.TB, dir string, o *SinkOptions) *Sink {
	t.Helper()
	return sink(t, filepath.Join(dir, "out"), o)
}

func persist(t testing.TB, d *Sink) vfio.Persistent {
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

// crash is what the end of the process does to a sink, as far as others can see.
func crash(t testing.TB, d *Sink) {
	t.Helper()
	if err := d.ends.(*pathEnd).file.f.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, s vfio.Stream, data string) {
	t.Helper()
	if _, err := s.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

func completes(t testing.TB, s vfio.Persistent, note string) {
	t.Helper()
	if err := s.Complete([]byte(note)); err != nil {
		t.Fatal(err)
	}
}

func resumes(t testing.TB, d *Sink, note string) {
	t.Helper()
	got, err := d.Resume(id)
	if err != nil || string(got) != note {
		t.Fatalf("resumed with %q, %v, want %q", got, err, note)
	}
	if now, _ := d.State(); now != vfio.Stop {
		t.Errorf("device is in %v", now)
	}
}

// committed wants the record of a session whose file has its name, and no more.
func committed(t testing.TB, d *Sink, note string) {
	t.Helper()
	got, err := d.Resume(id)
	if !errors.Is(err, vfio.ErrCommitted) || string(got) != note {
		t.Errorf("resumed with %q, %v, want ErrCommitted with %q", got, err, note)
	}
	if now, err := d.State(); now != vfio.Running || err != nil {
		t.Errorf("device is in %v, %v", now, err)
	}
}

func removes(t testing.TB, d *Sink) {
	t.Helper()
	if err := d.Remove(id); err != nil {
		t.Error(err)
	}
}

// none wants nothing to be resumed, and all to be as before.
func none(t testing.TB, d *Sink) {
	t.Helper()
	before, _ := d.State()
	if _, err := d.Resume(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resumed: %v, want ErrNotExist", err)
	}
	if now, err := d.State(); now != before || err != nil {
		t.Errorf("device went from %v to %v, %v", before, now, err)
	}
}

// whole leaves what a crash behind Complete leaves.
func whole(t testing.TB, dir string) {
	t.Helper()
	d := sinkIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "state")
	completes(t, s, "all")
	crash(t, d)
}

// TestResume: a complete state outlives a crash, in RESUMING as in STOP.
func TestResume(t *testing.T) {
	for _, at := range []vfio.State{vfio.Resuming, vfio.Stop} {
		dir := t.TempDir()
		d := sinkIn(t, dir, nil)
		s := persist(t, d)
		put(t, s, "state")
		completes(t, s, "all")
		if at == vfio.Stop {
			set(t, d, vfio.Stop)
		}
		crash(t, d)
		holds(t, dir, map[string]string{leftover: "state"})
		d = sinkIn(t, dir, nil)
		resumes(t, d, "all")
		set(t, d, vfio.Running)
		holds(t, dir, map[string]string{"out": "state"})
		committed(t, d, "all")
		removes(t, d)
		if n, err := unix.Getxattr(filepath.Join(dir, "out"), attribute, nil); !errors.Is(err, unix.ENODATA) {
			t.Errorf("the file has a record of %d bytes, %v", n, err)
		}
		if err := s.Complete(nil); !errors.Is(err, vfio.ErrSessionLost) && !errors.Is(err, os.ErrClosed) {
			t.Errorf("late completion: %v", err)
		}
	}
}

// TestPartIsNotPersisted: a crash before Complete leaves no file, under any name, where the
// file system has files without a name and where it has none.
func TestPartIsNotPersisted(t *testing.T) {
	for name, create := range map[string]func(dir, base string) (*hidden, error){"unnamed": createHidden, "named": createNamed} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := sinkIn(t, dir, nil)
			d.ends.(*pathEnd).create = create
			put(t, persist(t, d), "sta")
			other := sinkIn(t, dir, nil)
			other.ends.(*pathEnd).create = create
			put(t, persist(t, other), "state") // beside one that is alive
			crash(t, d)
			crash(t, other)
			d = sinkIn(t, dir, nil)
			d.ends.(*pathEnd).create = create
			none(t, d)
			if all, err := d.Persisted(); err != nil || len(all) > 0 {
				t.Errorf("persisted: %v, %v", all, err)
			}
			s := persist(t, d)
			put(t, s, "again")
			completes(t, s, "all")
			set(t, d, vfio.Running)
			holds(t, dir, map[string]string{"out": "again"})
		})
	}
}

// TestCommitWithoutComplete leaves no record: nothing says that the state was complete.
func TestCommitWithoutComplete(t *testing.T) {
	dir := t.TempDir()
	d := sinkIn(t, dir, nil)
	put(t, persist(t, d), "state")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
	none(t, d)
}

// TestCommitted: a crash behind the commit leaves the record, by which a later process
// knows that the file is that session's. Until it is removed the name may be asked for
// again, and is taken.
func TestCommitted(t *testing.T) {
	for _, overwrite := range []bool{false, true} {
		dir, o := t.TempDir(), &SinkOptions{Overwrite: overwrite}
		if overwrite {
			write(t, filepath.Join(dir, "out"), "old")
		}
		d := sinkIn(t, dir, o)
		s := persist(t, d)
		put(t, s, "state")
		completes(t, s, "all")
		set(t, d, vfio.Running) // and nobody closes it
		d = sinkIn(t, dir, o)
		broken := errors.New("the directory cannot be synced")
		d.ends.(*pathEnd).syncDir = func(*os.File) error { return broken }
		if _, err := d.Resume(id); !errors.Is(err, broken) || errors.Is(err, vfio.ErrCommitted) {
			t.Errorf("resume with a name that may not last: %v", err)
		}
		d = sinkIn(t, dir, o)
		committed(t, d, "all")
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
			t.Errorf("begin another: %v", err)
		}
		d.Reset()
		removes(t, d)
		none(t, d)
		holds(t, dir, map[string]string{"out": "state"})
		if _, err := NewSink(filepath.Join(dir, "out"), nil); !errors.Is(err, fs.ErrExist) {
			t.Errorf("new sink: %v", err)
		}
	}
}

// TestCrashInTheCommit: where a file system has no rename that replaces nothing, a crash
// may leave both names. What an exchange has left under the hidden one is somebody's old
// file, and goes too.
func TestCrashInTheCommit(t *testing.T) {
	for name, crashed := range map[string]func(hidden, out string) error{
		"link":     os.Link,
		"exchange": func(hidden, out string) error { write(t, out, "old"); return exchange(hidden, out) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := sinkIn(t, dir, nil)
			s := persist(t, d)
			put(t, s, "state")
			completes(t, s, "all")
			set(t, d, vfio.Stop)
			if err := crashed(filepath.Join(dir, leftover), filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
			crash(t, d)
			d = sinkIn(t, dir, nil)
			committed(t, d, "all")
			removes(t, d)
			holds(t, dir, map[string]string{"out": "state"})
		})
	}
}

// TestDetach: Detach and Close leave a complete state to a later process, as a crash does, and
// nothing of a part of one.
func TestDetach(t *testing.T) {
	for name, leave := range map[string]func(*Sink) error{"detach": (*Sink).Detach, "close": (*Sink).Close} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := sinkIn(t, dir, nil)
			put(t, persist(t, d), "sta")
			if err := leave(d); err != nil {
				t.Fatal(err)
			}
			holds(t, dir, nil)
			d = sinkIn(t, dir, nil)
			s := persist(t, d)
			put(t, s, "state")
			completes(t, s, "all")
			for range 2 {
				if err := leave(d); err != nil {
					t.Fatal(err)
				}
				if err := s.Complete(nil); !errors.Is(err, vfio.ErrSessionLost) {
					t.Errorf("late completion: %v", err)
				}
				holds(t, dir, map[string]string{leftover: "state"})
				d = sinkIn(t, dir, nil)
				resumes(t, d, "all")
			}
			// A session that cannot begin costs the one at hand nothing.
			write(t, filepath.Join(dir, "out"), "somebody's")
			if _, err := d.SetState(vfio.Resuming); !errors.Is(err, fs.ErrExist) {
				t.Errorf("begin: %v", err)
			}
			os.Remove(filepath.Join(dir, "out"))
			set(t, d, vfio.Running)
			holds(t, dir, map[string]string{"out": "state"})
		})
	}
}

func TestResumeOverAFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "out"), "old")
	d := sinkIn(t, dir, &SinkOptions{Overwrite: true})
	s := persist(t, d)
	put(t, s, "new")
	completes(t, s, "all")
	crash(t, d)
	d = sinkIn(t, dir, &SinkOptions{Overwrite: true})
	resumes(t, d, "all")
	holds(t, dir, map[string]string{leftover: "new", "out": "old"})
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "new"})
}

// TestNothingIsPersisted after Reset, nor where SetState has begun the session.
func TestNothingIsPersisted(t *testing.T) {
	for name, leave := range map[string]func(d *Sink) error{
		"reset": (*Sink).Reset,
		"another session": func(d *Sink) error {
			_, err := d.SetState(vfio.Resuming)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			whole(t, dir)
			d := sinkIn(t, dir, nil)
			resumes(t, d, "all")
			if err := leave(d); err != nil {
				t.Error(err)
			}
			d.Close()
			holds(t, dir, nil)
			none(t, sinkIn(t, dir, nil))
		})
	}
	dir := t.TempDir()
	d := sinkIn(t, dir, nil)
	s := set(t, d, vfio.Resuming)
	if _, ok := s.(vfio.Persistent); ok {
		t.Error("a session that is not persistent can be completed")
	}
	put(t, s, "state")
	crash(t, d)
	holds(t, dir, nil)
}

// TestRecordIsCut at every byte, and changed in every byte: no part of a record is
// taken for one, and what it is of stays.
func TestRecordIsCut(t *testing.T) {
	dir := t.TempDir()
	whole(t, dir)
	path := filepath.Join(dir, leftover)
	good := record{id, 5, []byte("all")}.encode()
	for i := range good {
		changed := bytes.Clone(good)
		changed[i] ^= 0x10
		for _, bad := range [][]byte{good[:i], changed} {
			if err := unix.Setxattr(path, attribute, bad, 0); err != nil {
				t.Fatal(err)
			}
			none(t, sinkIn(t, dir, nil))
		}
	}
	unix.Setxattr(path, attribute, make([]byte, maxRecord+1), 0)
	none(t, sinkIn(t, dir, nil))
	unix.Removexattr(path, attribute)
	none(t, sinkIn(t, dir, nil))
	unix.Setxattr(path, attribute, record{"another", 5, nil}.encode(), 0)
	none(t, sinkIn(t, dir, nil))
	holds(t, dir, map[string]string{leftover: "state"})
	unix.Setxattr(path, attribute, good, 0)
	resumes(t, sinkIn(t, dir, nil), "all")
}

// TestUnknownRecord is of a newer program, whose sessions are not for this one to
// discard.
func TestUnknownRecord(t *testing.T) {
	dir := t.TempDir()
	whole(t, dir)
	b := record{id, 5, nil}.encode()
	b[atVersion]++
	unix.Setxattr(filepath.Join(dir, leftover), attribute, resum(b), 0)
	_, err := sinkIn(t, dir, nil).Resume(id)
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "version 2, this program knows 1") {
		t.Errorf("resumed: %v", err)
	}
}

// TestDataIsCut: a file that lacks a byte is no complete session, and a byte behind the end is
// not part of one.
func TestDataIsCut(t *testing.T) {
	for n, want := range []string{4: "", 5: "state", 6: "state"} {
		if n < 4 {
			continue
		}
		dir := t.TempDir()
		whole(t, dir)
		if err := os.Truncate(filepath.Join(dir, leftover), int64(n)); err != nil {
			t.Fatal(err)
		}
		d := sinkIn(t, dir, nil)
		if want == "" {
			none(t, d)
			continue
		}
		resumes(t, d, "all")
		set(t, d, vfio.Running)
		holds(t, dir, map[string]string{"out": want})
	}
}

// TestCrashesAnywhere writes, completes and crashes, and wants the file that was written, or
// no file where it was not completed.
func TestCrashesAnywhere(t *testing.T) {
	top := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(top, "")
		if err != nil {
			t.Fatal(err)
		}
		d := sinkIn(t, dir, nil)
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
			holds(t, dir, nil)
			return
		}
		completes(t, s, note)
		for range rapid.IntRange(0, 3).Draw(rt, "crashes") {
			crash(t, d)
			d = sinkIn(t, dir, nil)
			resumes(t, d, note)
		}
		set(t, d, vfio.Running)
		holds(t, dir, map[string]string{"out": written})
		d.Close()
	})
}

// TestKilled is the crash of a real process, before and behind Complete.
func TestKilled(t *testing.T) {
	const inside = "MIGPIPE_TEST_KILLED"
	if dir, complete := strings.CutSuffix(os.Getenv(inside), " complete"); dir != "" {
		s := persist(t, sinkIn(t, dir, nil))
		put(t, s, "state")
		if complete {
			completes(t, s, "all")
		}
		os.Stdout.WriteString("written\n")
		select {}
	}
	removable := sinkIn(t, t.TempDir(), nil)
	persist(t, removable) // skips where it cannot be
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
		d := sinkIn(t, dir, nil)
		_, meanwhile := d.Resume(id)
		cmd.Process.Kill()
		cmd.Wait()
		want := fs.ErrNotExist
		if end != "" {
			want = vfio.ErrBusy
		}
		if line != "written\n" || err != nil || !errors.Is(meanwhile, want) {
			t.Fatalf("child: %q, %v; resuming meanwhile: %v, want %v", line, err, meanwhile, want)
		}
		if end == "" {
			holds(t, dir, nil)
			none(t, d)
			continue
		}
		resumes(t, d, "all")
		set(t, d, vfio.Running)
		holds(t, dir, map[string]string{"out": "state"})
	}
}

// TestPersistedIsBusy: a second process, and the same again, find a session that somebody
// works on.
func TestPersistedIsBusy(t *testing.T) {
	dir := t.TempDir()
	d := sinkIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "state")
	completes(t, s, "all")
	other := sinkIn(t, dir, nil)
	for name, busy := range map[string]func() error{
		"persist":           func() error { _, err := other.Persist(id); return err },
		"resume":            func() error { _, err := other.Resume(id); return err },
		"remove":            func() error { return other.Remove(id) },
		"persist once more": func() error { _, err := d.Persist(id); return err },
		"resume its own":    func() error { _, err := d.Resume(id); return err },
		"resume another's":  func() error { _, err := d.Resume("other"); return err },
		"remove its own":    func() error { return d.Remove(id) },
	} {
		if err := busy(); !errors.Is(err, vfio.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
}

// TestTwoComplete: of two processes that load the same session, the first one has it.
func TestTwoComplete(t *testing.T) {
	dir := t.TempDir()
	d, other := sinkIn(t, dir, nil), sinkIn(t, dir, nil)
	s, second := persist(t, d), persist(t, other)
	put(t, s, "state")
	put(t, second, "other")
	completes(t, s, "all")
	if err := second.Complete(nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second: %v", err)
	}
	other.Reset()
	crash(t, d)
	resumes(t, sinkIn(t, dir, nil), "all")
}

// TestLockOfANameThatIsGone: whoever had the file may remove it between the open and
// the lock.
func TestLockOfANameThatIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.Remove(path)
	if err := lock(f, path); !errors.Is(err, vfio.ErrBusy) {
		t.Errorf("no name: %v", err)
	}
	write(t, path, "another")
	if err := lock(f, path); !errors.Is(err, vfio.ErrBusy) {
		t.Errorf("another's name: %v", err)
	}
}

// TestOtherMigrationsAreSpared: nothing that one session does touches what is left of
// another, nor a link in its place.
func TestOtherMigrationsAreSpared(t *testing.T) {
	dir := t.TempDir()
	whole(t, dir)
	d := sinkIn(t, dir, nil)
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
	completes(t, s, "")
	d.Reset()
	put(t, set(t, d, vfio.Resuming), "third")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{leftover: "state", "out": "third"})
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
	whole(t, dir)
	d := sinkIn(t, dir, nil)
	for range 2 {
		removes(t, d)
		holds(t, dir, nil)
	}
	whole(t, dir)
	s := persist(t, d) // in the place of the one before
	holds(t, dir, nil)
	put(t, s, "new")
	completes(t, s, "newer")
	crash(t, d)
	resumes(t, sinkIn(t, dir, nil), "newer")
}

// TestCompleteFails: the disk may have lost anything then, so that no later Complete, Write
// or commit may succeed, and nothing is persisted.
func TestCompleteFails(t *testing.T) {
	dir := t.TempDir()
	d := sinkIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "state")
	s.(*persistent).store = func(*os.File, record) error { return unix.EIO }
	if err := s.Complete([]byte("5")); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "out: complete at byte 5") {
		t.Errorf("complete: %v", err)
	}
	s.(*persistent).store = store
	again := s.Complete(nil)
	_, more := s.Write([]byte("x"))
	_, stop := d.SetState(vfio.Stop)
	for _, err := range []error{again, more, stop} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("after a completion that failed: %v", err)
		}
	}
	crash(t, d)
	holds(t, dir, nil)

	d = sinkIn(t, dir, nil)
	s = persist(t, d)
	failOnce(&d.ends.(*pathEnd).syncDir, unix.EIO)
	lost := s.Complete(nil)
	_, stop = d.SetState(vfio.Stop)
	for _, err := range []error{lost, stop} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("a directory that cannot be synced: %v", err)
		}
	}
	d.Reset()
	holds(t, dir, nil)
}

func TestNoteTooLong(t *testing.T) {
	d := sinkIn(t, t.TempDir(), nil)
	completes(t, persist(t, d), strings.Repeat("n", vfio.MaxNote))
	d.Reset()
	if err := persist(t, d).Complete(make([]byte, vfio.MaxNote+1)); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "513 bytes, at most 512") {
		t.Errorf("complete: %v", err)
	}
}

// TestDiskIsFull: nothing is left of a state that has no room.
func TestDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIP: a file system that is small needs a privilege: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	d := sinkIn(t, dir, nil)
	s := persist(t, d)
	put(t, s, "sta")
	if _, err := s.Write(make([]byte, 128<<10)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := s.Complete(nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("completion of what was not written: %v", err)
	}
	crash(t, d)
	holds(t, dir, nil)
	d = sinkIn(t, dir, nil)
	s = persist(t, d)
	put(t, s, "state")
	completes(t, s, "")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
}

// TestPersistFails leaves nothing, and the device where it was.
func TestPersistFails(t *testing.T) {
	dir := t.TempDir()
	d := sinkIn(t, dir, nil)
	persist(t, d)
	d.Reset()
	long, err := NewSink(filepath.Join(dir, strings.Repeat("n", 250)), nil)
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
	holds(t, dir, nil)
}

// persistentSink has every session persisted.
type persistentSink struct{ *Sink }

func (d persistentSink) SetState(to vfio.State) (vfio.Stream, error) {
	now, err := d.State()
	if err == nil && vfio.OpensSession(now, to) && to == vfio.Resuming {
		return d.Persist(id)
	}
	return d.Sink.SetState(to)
}

func TestConformanceOfPersistent(t *testing.T) {
	dir := t.TempDir()
	persist(t, sinkIn(t, t.TempDir(), nil))
	in, out := write(t, filepath.Join(dir, "in"), strings.Repeat("a state. ", 50_000)), filepath.Join(dir, "out")
	vfiotest.Run(t, vfiotest.Config{
		Source: func(t *testing.T) vfio.Device { d, _ := NewSource(in); return d },
		Destination: func(t *testing.T) vfio.Device {
			d, err := NewSink(out, &SinkOptions{Overwrite: true})
			if err != nil {
				t.Fatal(err)
			}
			return persistentSink{d}
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
	d := sinkIn(t, dir, nil)
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
	completes(t, s, "5")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
}

// resum gives a record that was changed its checksum again.
func resum(b []byte) []byte {
	r := bytes.Clone(b[:len(b)-sumLen])
	return appendSum(r)
}

// FuzzRecord: what is taken for a record is one, to the last byte.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{{}, {id, 3, []byte("note")}, {strings.Repeat("i", maxID), 1 << 62, make([]byte, vfio.MaxNote)}} {
		f.Add(r.encode(), false)
		f.Add(r.encode(), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) >= sumLen {
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

// BenchmarkComplete is what a state of 1 MiB costs that outlives a crash.
func BenchmarkComplete(b *testing.B) {
	d := sinkIn(b, b.TempDir(), nil)
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
