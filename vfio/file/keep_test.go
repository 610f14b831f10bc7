package file

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/vfiotest"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// id and leftover are the session that the tests keep, and its file.
const id, leftover = "6d1f-A", ".out.6d1f-A.resumable"

// keeper opens a sink in dir whose sessions can be kept there.
func keeper(t testing.TB, dir string, o *SinkOptions) *Sink {
	t.Helper()
	return sink(t, filepath.Join(dir, "out"), o)
}

func keep(t testing.TB, d *Sink, note string) vfio.Durable {
	t.Helper()
	s, err := d.Keep(id, []byte(note))
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

func syncs(t testing.TB, s vfio.Durable, note string) {
	t.Helper()
	if err := s.Sync([]byte(note)); err != nil {
		t.Fatal(err)
	}
}

func resumes(t testing.TB, d *Sink, offset uint64, note string) vfio.Durable {
	t.Helper()
	s, at, got, err := d.Resume(id)
	if err != nil || at != offset || string(got) != note {
		t.Fatalf("resumed at %d with %q, %v, want %d with %q", at, got, err, offset, note)
	}
	return s
}

// committed wants the word of a session that has its name, and no more.
func committed(t testing.TB, d *Sink, offset uint64, note string) {
	t.Helper()
	s, at, got, err := d.Resume(id)
	if s != nil || !errors.Is(err, vfio.ErrCommitted) || at != offset || string(got) != note {
		t.Errorf("resumed: %v at %d with %q, %v, want ErrCommitted at %d with %q", s, at, got, err, offset, note)
	}
	if now, err := d.State(); now != vfio.Running || err != nil {
		t.Errorf("device is in %v, %v", now, err)
	}
}

func forgets(t testing.TB, d *Sink) {
	t.Helper()
	if err := d.Forget(id); err != nil {
		t.Error(err)
	}
}

// none wants nothing to be resumed, and all to be as before.
func none(t testing.TB, d *Sink) {
	t.Helper()
	before, _ := d.State()
	s, _, _, err := d.Resume(id)
	if s != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resumed: %v, %v, want ErrNotExist", s, err)
	}
	if now, err := d.State(); now != before || err != nil {
		t.Errorf("device went from %v to %v, %v", before, now, err)
	}
}

// half leaves what a crash in the middle of "state" leaves: "sta" is durable.
func half(t testing.TB, dir string) {
	t.Helper()
	d := keeper(t, dir, nil)
	s := keep(t, d, "0")
	put(t, s, "sta")
	syncs(t, s, "3")
	put(t, s, "lost")
	crash(t, d)
}

func TestResume(t *testing.T) {
	dir := t.TempDir()
	half(t, dir)
	holds(t, dir, map[string]string{leftover: "stalost"})
	d := keeper(t, dir, nil)
	s := resumes(t, d, 3, "3")
	if now, _ := d.State(); now != vfio.Resuming {
		t.Errorf("device is in %v", now)
	}
	put(t, s, "te")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
	committed(t, d, 3, "3") // as of the last sync: the rest was not asked to be durable
	forgets(t, d)
	if n, err := unix.Getxattr(filepath.Join(dir, "out"), attribute, nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("the file has a record of %d bytes, %v", n, err)
	}
	if err := s.Sync(nil); !errors.Is(err, vfio.ErrSessionLost) {
		t.Errorf("late sync: %v", err)
	}
}

// TestResumeOfTheWhole: a crash after RESUMING -> STOP leaves all that was synced
// before, and STOP can be reached again.
func TestResumeOfTheWhole(t *testing.T) {
	dir := t.TempDir()
	d := keeper(t, dir, nil)
	s := keep(t, d, "")
	put(t, s, "state")
	syncs(t, s, "all")
	set(t, d, vfio.Stop)
	crash(t, d)
	d = keeper(t, dir, nil)
	resumes(t, d, 5, "all")
	set(t, d, vfio.Stop)
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
}

// TestCommitted: a crash behind the commit leaves the word of it, by which a later process
// knows that the file is that session's. Until it is forgotten the name may be asked for
// again, and is taken.
func TestCommitted(t *testing.T) {
	for _, overwrite := range []bool{false, true} {
		dir, o := t.TempDir(), &SinkOptions{Overwrite: overwrite}
		if overwrite {
			write(t, filepath.Join(dir, "out"), "old")
		}
		d := keeper(t, dir, o)
		s := keep(t, d, "")
		put(t, s, "state")
		syncs(t, s, "all")
		set(t, d, vfio.Running) // and nobody closes it
		d = keeper(t, dir, o)
		broken := errors.New("the folder cannot be synced")
		d.ends.(*pathEnd).syncDir = func(*os.File) error { return broken }
		if _, _, _, err := d.Resume(id); !errors.Is(err, broken) || errors.Is(err, vfio.ErrCommitted) {
			t.Errorf("resume with a name that may not last: %v", err)
		}
		d = keeper(t, dir, o)
		committed(t, d, 5, "all")
		if _, _, _, err := d.Resume("another"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("resume another: %v", err)
		}
		if left, err := d.Left(); err != nil || len(left) != 1 || left[0].ID != id || time.Since(left[0].Since) > time.Minute {
			t.Errorf("left: %v, %v", left, err)
		}
		if _, err := d.Keep("another", nil); !overwrite && !errors.Is(err, fs.ErrExist) {
			t.Errorf("keep another: %v", err)
		}
		if now, _ := d.State(); !overwrite && now != vfio.Running {
			t.Errorf("device is in %v", now)
		}
		d.Reset()
		if _, err := d.SetState(vfio.Resuming); !overwrite && !errors.Is(err, fs.ErrExist) {
			t.Errorf("begin another: %v", err)
		}
		d.Reset()
		forgets(t, d)
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
			d := keeper(t, dir, nil)
			s := keep(t, d, "")
			put(t, s, "state")
			syncs(t, s, "all")
			set(t, d, vfio.Stop)
			if err := crashed(filepath.Join(dir, leftover), filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
			crash(t, d)
			d = keeper(t, dir, nil)
			committed(t, d, 5, "all")
			forgets(t, d)
			holds(t, dir, map[string]string{"out": "state"})
		})
	}
}

// TestCloseKeeps what a crash would leave, as Leave does: whoever closes may not know what
// has become of the session.
func TestCloseKeeps(t *testing.T) {
	dir := t.TempDir()
	d := keeper(t, dir, nil)
	s := keep(t, d, "")
	put(t, s, "state")
	syncs(t, s, "all")
	set(t, d, vfio.Stop)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = keeper(t, dir, nil)
	for range 2 {
		s := resumes(t, d, 5, "all")
		if err := d.Leave(); err != nil {
			t.Fatal(err)
		}
		if now, err := d.State(); now != vfio.Running || err != nil {
			t.Errorf("device is in %v, %v", now, err)
		}
		if err := s.Sync(nil); !errors.Is(err, vfio.ErrSessionLost) {
			t.Errorf("late sync: %v", err)
		}
	}
	// A session that cannot begin costs the one at hand nothing.
	resumes(t, d, 5, "all")
	set(t, d, vfio.Stop)
	write(t, filepath.Join(dir, "out"), "somebody's")
	if _, err := d.SetState(vfio.Resuming); !errors.Is(err, fs.ErrExist) {
		t.Errorf("begin: %v", err)
	}
	os.Remove(filepath.Join(dir, "out"))
	if err := d.Leave(); err != nil {
		t.Fatal(err)
	}
	resumes(t, d, 5, "all")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
}

func TestResumeOverAFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "out"), "old")
	d := keeper(t, dir, &SinkOptions{Overwrite: true})
	s := keep(t, d, "")
	put(t, s, "new")
	syncs(t, s, "all")
	crash(t, d)
	d = keeper(t, dir, &SinkOptions{Overwrite: true})
	resumes(t, d, 3, "all")
	holds(t, dir, map[string]string{leftover: "new", "out": "old"})
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "new"})
}

// TestNothingIsKept by Reset and Close, nor by a crash where nobody asked for it.
func TestNothingIsKept(t *testing.T) {
	for name, leave := range map[string]func(d *Sink) error{
		"reset":          (*Sink).Reset,
		"stop and reset": func(d *Sink) error { d.SetState(vfio.Stop); return d.Reset() },
		"another session": func(d *Sink) error {
			d.SetState(vfio.Stop)
			_, err := d.SetState(vfio.Resuming)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			half(t, dir)
			d := keeper(t, dir, nil)
			resumes(t, d, 3, "3")
			if err := leave(d); err != nil {
				t.Error(err)
			}
			d.Close()
			holds(t, dir, nil)
			none(t, keeper(t, dir, nil))
		})
	}
	dir := t.TempDir()
	d := keeper(t, dir, nil)
	s := set(t, d, vfio.Resuming)
	if _, ok := s.(vfio.Durable); ok {
		t.Error("a session that is not kept can be synced")
	}
	put(t, s, "state")
	crash(t, d)
	holds(t, dir, nil)
}

// TestRecordIsCut at every byte, and changed in every byte: no part of a record is
// taken for one, and what it is of stays.
func TestRecordIsCut(t *testing.T) {
	dir := t.TempDir()
	half(t, dir)
	path := filepath.Join(dir, leftover)
	whole := record{id, 3, []byte("3")}.encode()
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 0x10
		for _, bad := range [][]byte{whole[:i], changed} {
			if err := unix.Setxattr(path, attribute, bad, 0); err != nil {
				t.Fatal(err)
			}
			none(t, keeper(t, dir, nil))
		}
	}
	unix.Setxattr(path, attribute, make([]byte, maxRecord+1), 0)
	none(t, keeper(t, dir, nil))
	unix.Removexattr(path, attribute)
	none(t, keeper(t, dir, nil))
	unix.Setxattr(path, attribute, record{"another", 3, nil}.encode(), 0)
	none(t, keeper(t, dir, nil))
	holds(t, dir, map[string]string{leftover: "stalost"})
	unix.Setxattr(path, attribute, whole, 0)
	resumes(t, keeper(t, dir, nil), 3, "3")
}

// TestUnknownRecord is of a newer program, whose sessions are not for this one to
// give up.
func TestUnknownRecord(t *testing.T) {
	dir := t.TempDir()
	half(t, dir)
	b := record{id, 3, nil}.encode()
	b[atVersion]++
	unix.Setxattr(filepath.Join(dir, leftover), attribute, resum(b), 0)
	_, _, _, err := keeper(t, dir, nil).Resume(id)
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "version 2, this program knows 1") {
		t.Errorf("resumed: %v", err)
	}
}

// TestDataIsCut: what is behind the last sync may be there in any part, what is
// before it has to be.
func TestDataIsCut(t *testing.T) {
	const durable, all = 10_000, 20_000
	data := strings.Repeat("0123456789", all/10)
	for n := 0; n <= all; n += 499 {
		dir := t.TempDir()
		d := keeper(t, dir, nil)
		s := keep(t, d, "")
		put(t, s, data[:durable])
		syncs(t, s, "half")
		put(t, s, data[durable:])
		crash(t, d)
		if err := os.Truncate(filepath.Join(dir, leftover), int64(n)); err != nil {
			t.Fatal(err)
		}
		d = keeper(t, dir, nil)
		if n < durable {
			none(t, d)
			continue
		}
		put(t, resumes(t, d, durable, "half"), data[durable:])
		set(t, d, vfio.Running)
		holds(t, dir, map[string]string{"out": data})
		d.Close()
	}
}

// TestCrashesAnywhere writes, syncs and crashes in any order, and wants the file that
// was written, and after each crash no more and no less than what was synced.
func TestCrashesAnywhere(t *testing.T) {
	top := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(top, "")
		if err != nil {
			t.Fatal(err)
		}
		d := keeper(t, dir, nil)
		s := keep(t, d, "")
		var written, durable, note string
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				data := strings.Repeat("x", rapid.IntRange(1, 9000).Draw(rt, "bytes"))
				put(t, s, data)
				written += data
			},
			"zeros": func(rt *rapid.T) {
				n := rapid.IntRange(1, 9000).Draw(rt, "bytes")
				if err := s.(vfio.ZeroWriter).WriteZeros(n); err != nil {
					rt.Fatal(err)
				}
				written += strings.Repeat("\x00", n)
			},
			"sync": func(rt *rapid.T) {
				note = rapid.StringN(-1, -1, vfio.MaxNote).Draw(rt, "note")
				syncs(t, s, note)
				durable = written
			},
			"crash": func(*rapid.T) {
				crash(t, d)
				d = keeper(t, dir, nil)
				s = resumes(t, d, uint64(len(durable)), note)
				written = durable
			},
		})
		set(t, d, vfio.Running)
		holds(t, dir, map[string]string{"out": written})
		d.Close()
	})
}

// TestKilled is the crash of a real process.
func TestKilled(t *testing.T) {
	const inside = "MIGPIPE_TEST_KILLED"
	if dir := os.Getenv(inside); dir != "" {
		d := keeper(t, dir, nil)
		s := keep(t, d, "")
		put(t, s, "sta")
		syncs(t, s, "3")
		put(t, s, "lost")
		os.Stdout.WriteString("written\n")
		select {}
	}
	dir := t.TempDir()
	keep(t, keeper(t, dir, nil), "") // skips where it cannot be
	keeper(t, dir, nil).Forget(id)
	dir = t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKilled$")
	cmd.Env = append(os.Environ(), inside+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	d := keeper(t, dir, nil)
	_, _, _, busy := d.Resume(id)
	cmd.Process.Kill()
	cmd.Wait()
	if line != "written\n" || err != nil || !errors.Is(busy, vfio.ErrBusy) {
		t.Fatalf("child: %q, %v; resuming meanwhile: %v", line, err, busy)
	}
	put(t, resumes(t, d, 3, "3"), "te")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
}

// TestKeptIsBusy: a second process, and the same again, find a session that somebody
// works on.
func TestKeptIsBusy(t *testing.T) {
	dir := t.TempDir()
	d := keeper(t, dir, nil)
	put(t, keep(t, d, ""), "state")
	other := keeper(t, dir, nil)
	for name, busy := range map[string]func() error{
		"keep":             func() error { _, err := other.Keep(id, nil); return err },
		"resume":           func() error { _, _, _, err := other.Resume(id); return err },
		"forget":           func() error { return other.Forget(id) },
		"keep once more":   func() error { _, err := d.Keep(id, nil); return err },
		"resume its own":   func() error { _, _, _, err := d.Resume(id); return err },
		"resume another's": func() error { _, _, _, err := d.Resume("other"); return err },
		"forget its own":   func() error { return d.Forget(id) },
	} {
		if err := busy(); !errors.Is(err, vfio.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
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
	half(t, dir)
	d := keeper(t, dir, nil)
	if _, _, _, err := d.Resume("other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resumed: %v", err)
	}
	if err := d.Forget("other"); err != nil {
		t.Error(err)
	}
	s, err := d.Keep("other", nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "other")
	d.Reset()
	put(t, set(t, d, vfio.Resuming), "third")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{leftover: "stalost", "out": "third"})
	link := filepath.Join(dir, ".out.link.resumable")
	if err := os.Symlink(leftover, link); err != nil {
		t.Fatal(err)
	}
	if err := d.Forget("link"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: %v", err)
	}
}

func TestForget(t *testing.T) {
	dir := t.TempDir()
	half(t, dir)
	d := keeper(t, dir, nil)
	for range 2 {
		if err := d.Forget(id); err != nil {
			t.Error(err)
		}
		holds(t, dir, nil)
	}
	half(t, dir)
	put(t, keep(t, d, "anew"), "new")
	holds(t, dir, map[string]string{leftover: "new"})
	crash(t, d)
	resumes(t, keeper(t, dir, nil), 0, "anew")
}

// TestSyncFails: the disk may have lost anything then, so that no later Sync, Write
// or commit may succeed. What was synced before is still there.
func TestSyncFails(t *testing.T) {
	dir := t.TempDir()
	d := keeper(t, dir, nil)
	s := keep(t, d, "")
	put(t, s, "sta")
	syncs(t, s, "3")
	s.(*kept).store = func(*os.File, record) error { return unix.EIO }
	put(t, s, "te")
	if err := s.Sync([]byte("5")); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "out: sync at byte 5") {
		t.Errorf("sync: %v", err)
	}
	s.(*kept).store = store
	again := s.Sync(nil)
	_, more := s.Write([]byte("x"))
	_, stop := d.SetState(vfio.Stop)
	for _, err := range []error{again, more, stop} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("after a sync that failed: %v", err)
		}
	}
	crash(t, d)
	resumes(t, keeper(t, dir, nil), 3, "3")
}

func TestNoteTooLong(t *testing.T) {
	dir := t.TempDir()
	d := keeper(t, dir, nil)
	keep(t, d, strings.Repeat("n", vfio.MaxNote))
	d.Reset()
	if _, err := d.Keep(id, make([]byte, vfio.MaxNote+1)); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "513 bytes, at most 512") {
		t.Errorf("keep: %v", err)
	}
	holds(t, dir, nil)
}

// TestDiskIsFull: the session can be resumed when there is room again.
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
	d := keeper(t, dir, nil)
	s := keep(t, d, "")
	put(t, s, "sta")
	syncs(t, s, "3")
	if _, err := s.Write(make([]byte, 128<<10)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := s.Sync(nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("sync of what was not written: %v", err)
	}
	crash(t, d)
	d = keeper(t, dir, nil)
	put(t, resumes(t, d, 3, "3"), "te")
	set(t, d, vfio.Running)
	holds(t, dir, map[string]string{"out": "state"})
}

// TestKeepFails leaves nothing, and the device where it was.
func TestKeepFails(t *testing.T) {
	dir := t.TempDir()
	d := keeper(t, dir, nil)
	keep(t, d, "")
	d.Reset()
	failOnce(&d.ends.(*pathEnd).syncDir, unix.EIO)
	_, dirLost := d.Keep(id, nil)
	long, err := NewSink(filepath.Join(dir, strings.Repeat("n", 250)), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, name := long.Keep(id, nil)
	r, w := pipe(t)
	defer unix.Close(r)
	stream, err := ToFD(w, "a pipe")
	if err != nil {
		t.Fatal(err)
	}
	_, onFD := stream.Keep(id, nil)
	_, _, _, fromFD := stream.Resume(id)
	_, empty := d.Keep("", nil)
	_, slash := d.Keep("../x", nil)
	stream.Close()
	long.Close()
	_, closed := long.Keep(id, nil)
	for name, tt := range map[string]struct{ got, want error }{
		"folder cannot be synced": {dirLost, unix.EIO}, "name too long": {name, errors.ErrUnsupported},
		"pipe": {onFD, errors.ErrUnsupported}, "resume of a pipe": {fromFD, errors.ErrUnsupported},
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

// keptSink has every session kept.
type keptSink struct{ *Sink }

func (d keptSink) SetState(to vfio.State) (vfio.Stream, error) {
	now, err := d.State()
	if err == nil && vfio.OpensSession(now, to) && to == vfio.Resuming {
		return d.Keep(id, nil)
	}
	return d.Sink.SetState(to)
}

func TestConformanceOfKept(t *testing.T) {
	dir := t.TempDir()
	keep(t, keeper(t, t.TempDir(), nil), "")
	in, out := write(t, filepath.Join(dir, "in"), strings.Repeat("a state. ", 50_000)), filepath.Join(dir, "out")
	vfiotest.Run(t, vfiotest.Config{
		Source: func(t *testing.T) vfio.Device { d, _ := NewSource(in); return d },
		Destination: func(t *testing.T) vfio.Device {
			d, err := NewSink(out, &SinkOptions{Overwrite: true})
			if err != nil {
				t.Fatal(err)
			}
			return keptSink{d}
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

func TestSpliceIntoKept(t *testing.T) {
	dir := t.TempDir()
	half(t, dir)
	d := keeper(t, dir, nil)
	s := resumes(t, d, 3, "3")
	r, w := pipe(t)
	defer unix.Close(r)
	unix.Write(w, []byte("te"))
	unix.Close(w)
	if n, err := s.(interface {
		SpliceFrom(pipe, n int) (int, error)
	}).SpliceFrom(r, 9); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	syncs(t, s, "5")
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

func BenchmarkSync(b *testing.B) {
	s := keep(b, keeper(b, b.TempDir(), nil), "")
	data, note := make([]byte, 1<<20), make([]byte, 250)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := io.Writer(s).Write(data); err != nil {
			b.Fatal(err)
		}
		if err := s.Sync(note); err != nil {
			b.Fatal(err)
		}
	}
}
