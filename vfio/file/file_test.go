package file

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/vfiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func set(t testing.TB, d vfio.Device, to vfio.State) vfio.Stream {
	t.Helper()
	s, err := d.SetState(to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func source(t *testing.T, path string) *Source {
	t.Helper()
	d, err := NewSource(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func destination(t testing.TB, path string, o *DestinationOptions) *Destination {
	t.Helper()
	d, err := NewDestination(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func write(t *testing.T, path string, data string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantFiles checks that a directory has exactly these files, by name and content.
func wantFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(data)
	}
	if len(got) != len(want) {
		t.Errorf("directory holds %q, want %q", got, want)
	}
	for name, data := range want {
		if got[name] != data {
			t.Errorf("%s holds %q, want %q", name, got[name], data)
		}
	}
}

// creators are the three ways to create a hidden file.
var creators = map[string]func(dir, base string) (*hiddenFile, error){
	"O_TMPFILE": createUnnamed, "temporary name": createNamed,
	"complete session": func(dir, base string) (*hiddenFile, error) {
		h, err := createUnnamed(dir, base)
		if err == nil {
			err = h.persistAs(filepath.Join(dir, "."+base+".id.resumable"))
			h.complete = false // Close and Reset discard it
		}
		return h, err
	},
}

func forEachCreator(t *testing.T, f func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination)) {
	for name, create := range creators {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f(t, dir, func(o *DestinationOptions) *Destination {
				d := destination(t, filepath.Join(dir, "out"), o)
				d.backend.(*pathFile).create = create
				return d
			})
		})
	}
}

func TestNameAppearsAtCommit(t *testing.T) {
	forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
		d := open(nil)
		s := set(t, d, vfio.Resuming)
		if _, err := s.Write([]byte("state")); err != nil {
			t.Fatal(err)
		}
		set(t, d, vfio.Stop)
		if _, err := os.Stat(filepath.Join(dir, "out")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("name before the commit: %v", err)
		}
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": "state"})
		if _, err := s.Write([]byte("more")); !errors.Is(err, vfio.ErrSessionLost) {
			t.Errorf("write after the commit: %v", err)
		}
	})
}

func TestNothingIsLeftWithoutCommit(t *testing.T) {
	for name, leave := range map[string]func(d *Destination){
		"reset": func(d *Destination) { d.Reset() },
		"close": func(d *Destination) { d.Close() },
		"stop and reset": func(d *Destination) {
			d.SetState(vfio.Stop)
			d.Reset()
			d.SetState(vfio.Stop)
			d.SetState(vfio.Running)
		},
		"stop and close":  func(d *Destination) { d.SetState(vfio.Stop); d.Close() },
		"another session": func(d *Destination) { d.SetState(vfio.Stop); d.SetState(vfio.Resuming); d.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
				d := open(nil)
				set(t, d, vfio.Resuming).Write([]byte("state"))
				leave(d)
				wantFiles(t, dir, nil)
			})
		})
	}
}

func TestOverwrite(t *testing.T) {
	forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
		path := write(t, filepath.Join(dir, "out"), "old")
		if _, err := NewDestination(path, nil); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("existing file: %v", err)
		}
		d := open(&DestinationOptions{Overwrite: true})
		set(t, d, vfio.Resuming).Write([]byte("new"))
		set(t, d, vfio.Stop)
		if data, _ := os.ReadFile(path); string(data) != "old" {
			t.Errorf("before the commit: %q", data)
		}
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": "new"})
	})
}

func TestNameTakenMeanwhile(t *testing.T) {
	forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
		d := open(nil)
		set(t, d, vfio.Resuming).Write([]byte("state"))
		other := write(t, filepath.Join(dir, "out"), "other")
		_, err := d.SetState(vfio.Running)
		te := (*vfio.TransitionError)(nil)
		if !errors.As(err, &te) || te.Now != vfio.Stop || !errors.Is(err, os.ErrExist) {
			t.Fatalf("commit over a file: %v", err)
		}
		os.Remove(other)
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": "state"})
	})
}

// TestDirectoryCannotBeSynced makes the commit fail after the file has its name.
// The directory must be as before. The failure is final, since a second fsync
// would succeed, and no state may suggest that the device still holds the copy.
func TestDirectoryCannotBeSynced(t *testing.T) {
	for name, before := range map[string]map[string]string{
		"new": {}, "replaced": {"out": "old"},
	} {
		t.Run(name, func(t *testing.T) {
			forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
				for name, data := range before {
					write(t, filepath.Join(dir, name), data)
				}
				d := open(&DestinationOptions{Overwrite: len(before) > 0})
				failOnce(&d.backend.(*pathFile).syncDir, unix.EIO)
				set(t, d, vfio.Resuming).Write([]byte("state"))
				_, err := d.SetState(vfio.Running)
				te := (*vfio.TransitionError)(nil)
				if !errors.As(err, &te) || te.Now != vfio.StateError || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "sync "+dir) {
					t.Errorf("commit: %v", err)
				}
				wantFiles(t, dir, before)
				for _, to := range []vfio.State{vfio.Stop, vfio.Running, vfio.Resuming} {
					if _, err := d.SetState(to); !errors.Is(err, vfio.ErrInError) {
						t.Errorf("%v after the failed commit: %v", to, err)
					}
				}
				wantFiles(t, dir, before)
				if err := d.Reset(); err != nil {
					t.Error(err)
				}
				set(t, d, vfio.Resuming).Write([]byte("again"))
				set(t, d, vfio.Running)
				wantFiles(t, dir, map[string]string{"out": "again"})
			})
		})
	}
}

// TestReplacedFileCannotBeRestored checks that the replaced file stays under the
// name that the error gives, if the exchange cannot be undone.
func TestReplacedFileCannotBeRestored(t *testing.T) {
	forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
		path := write(t, filepath.Join(dir, "out"), "old")
		d := open(&DestinationOptions{Overwrite: true})
		d.backend.(*pathFile).syncDir = func(*os.File) error {
			return errors.Join(os.Remove(path), unix.EIO) // without the file, the exchange fails
		}
		set(t, d, vfio.Resuming).Write([]byte("state"))
		_, err := d.SetState(vfio.Running)
		if !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "cannot restore "+path+": ") {
			t.Errorf("commit: %v", err)
		}
		d.Reset()
		left, _ := os.ReadDir(dir)
		if len(left) != 1 {
			t.Fatalf("left: %v, want the old file alone", left)
		}
		old := filepath.Join(dir, left[0].Name())
		wantFiles(t, dir, map[string]string{left[0].Name(): "old"})
		if !strings.HasSuffix(err.Error(), "the file that was replaced is at "+old+" (device is now in ERROR)") {
			t.Errorf("commit: %v, want it to name %s", err, old)
		}
	})
}

// failOnce makes the next call fail and later calls succeed, as fsync does.
func failOnce(sync *func(*os.File) error, err error) {
	*sync = func(*os.File) error {
		*sync = (*os.File).Sync
		return err
	}
}

// TestDirectoryNeedsNoSync covers file systems that cannot sync a directory.
func TestDirectoryNeedsNoSync(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EINVAL, unix.ENOTSUP} {
		forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
			d := open(nil)
			failOnce(&d.backend.(*pathFile).syncDir, &os.PathError{Op: "sync", Path: dir, Err: errno})
			set(t, d, vfio.Resuming).Write([]byte("state"))
			set(t, d, vfio.Running)
			wantFiles(t, dir, map[string]string{"out": "state"})
		})
	}
}

// TestReplaceWithoutExchange covers file systems that cannot exchange two names.
func TestReplaceWithoutExchange(t *testing.T) {
	unable := func(a, b string) error { return unix.EINVAL }
	for name, tt := range map[string]struct {
		old  string
		want error // error of undo
	}{"new": {"", nil}, "replaced": {"old", errReplaced}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, left := filepath.Join(dir, "out"), map[string]string{}
			if tt.old != "" {
				write(t, path, tt.old)
				left["out"] = ""
			}
			h, err := createNamed(dir, "out")
			if err != nil {
				t.Fatal(err)
			}
			undo, err := h.replace(path, unable)
			if err != nil {
				t.Fatal(err)
			}
			wantFiles(t, dir, map[string]string{"out": ""})
			if err := undo(); err != tt.want {
				t.Errorf("undo: %v, want %v", err, tt.want)
			}
			if err := h.discard(); err != nil {
				t.Error(err)
			}
			wantFiles(t, dir, left)
		})
	}
}

// TestReplaceSparesDirectories checks that the commit fails if a directory of that
// name exists meanwhile. An exchange would replace it.
func TestReplaceSparesDirectories(t *testing.T) {
	forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
		d := open(&DestinationOptions{Overwrite: true})
		set(t, d, vfio.Resuming).Write([]byte("state"))
		taken := filepath.Join(dir, "out")
		if err := os.Mkdir(taken, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SetState(vfio.Running); !errors.Is(err, unix.EISDIR) {
			t.Errorf("commit over a directory: %v", err)
		}
		os.Remove(taken)
		set(t, d, vfio.Running)
		wantFiles(t, dir, map[string]string{"out": "state"})
	})
}

func TestHolesAndSizes(t *testing.T) {
	forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
		d := open(nil)
		s := set(t, d, vfio.Resuming)
		z := s.(vfio.ZeroWriter)
		for range 1024 {
			if err := z.WriteZeros(1 << 20); err != nil {
				t.Fatal(err)
			}
		}
		s.Write([]byte("end"))
		z.WriteZeros(1 << 20)
		set(t, d, vfio.Running)
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "out"), &st); err != nil {
			t.Fatal(err)
		}
		if st.Size != 1025<<20+3 || st.Blocks*512 > 1<<20 || st.Mode&0o777 != 0o600 {
			t.Errorf("size %d in %d blocks, mode %o", st.Size, st.Blocks, st.Mode)
		}
	})
}

func TestAnyWritesMakeTheSameFile(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, strings.Repeat("x", 1+n%200))
		d, err := NewDestination(path, &DestinationOptions{Overwrite: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer d.Close()
		s := set(t, d, vfio.Resuming)
		var want []byte
		for _, n := range rapid.SliceOf(rapid.IntRange(-20_000, 20_000)).Draw(rt, "pieces") {
			if n < 0 {
				want = append(want, make([]byte, -n)...)
				err = s.(vfio.ZeroWriter).WriteZeros(-n)
			} else {
				piece := bytes.Repeat([]byte{byte(n)}, n)
				want = append(want, piece...)
				_, err = s.Write(piece)
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		set(t, d, vfio.Running)
		src := source(t, path)
		got, err := io.ReadAll(set(t, src, vfio.StopCopy))
		src.Close()
		if err != nil || !bytes.Equal(got, want) {
			rt.Fatalf("read %d bytes, want %d: %v", len(got), len(want), err)
		}
	})
}

func TestSourceStartsOver(t *testing.T) {
	d := source(t, write(t, filepath.Join(t.TempDir(), "in"), "state"))
	for range 2 {
		s := set(t, d, vfio.StopCopy)
		if n, err := d.StopCopySize(); n != 5 || err != nil {
			t.Errorf("size %d, %v", n, err)
		}
		s.Read(make([]byte, 2))
		if n, err := d.StopCopySize(); n != 3 || err != nil {
			t.Errorf("size %d, %v after 2 bytes", n, err)
		}
		if rest, err := io.ReadAll(s); string(rest) != "ate" || err != nil {
			t.Errorf("rest %q, %v", rest, err)
		}
		set(t, d, vfio.Running)
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, vfio.ErrSessionLost) {
			t.Errorf("read after the session: %v", err)
		}
	}
}

// dupAndClose returns a duplicate of a file's fd and closes the file, as a launcher does.
func dupAndClose(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestSourceByFDStartsAtItsPosition(t *testing.T) {
	f, err := os.Open(write(t, filepath.Join(t.TempDir(), "in"), "headstate"))
	if err != nil {
		t.Fatal(err)
	}
	f.Seek(4, io.SeekStart)
	d, err := FromFD(dupAndClose(t, f), "inherited")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 2 {
		if data, err := io.ReadAll(set(t, d, vfio.StopCopy)); string(data) != "state" || err != nil {
			t.Errorf("%q, %v", data, err)
		}
		set(t, d, vfio.Stop)
	}
}

// TestRegularFDStaysBlocking checks that the mode of an fd of a regular file does
// not change, since another process may share it.
func TestRegularFDStaysBlocking(t *testing.T) {
	for name, open := range map[string]func(fd int) (vfio.Device, error){
		"source":      func(fd int) (vfio.Device, error) { return FromFD(fd, "shared") },
		"destination": func(fd int) (vfio.Device, error) { return ToFD(fd, "shared") },
	} {
		fd, err := unix.Open(write(t, filepath.Join(t.TempDir(), "f"), "state"), unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		d, err := open(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if flags&unix.O_NONBLOCK != 0 || err != nil {
			t.Errorf("%s: mode %#x, %v", name, flags, err)
		}
	}
}

// pipe returns both ends as raw fds. The test closes the end that it does not pass on.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

func TestPipeSource(t *testing.T) {
	r, w := pipe(t)
	d, err := FromFD(r, "a pipe")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.StopCopySize(); !errors.Is(err, errors.ErrUnsupported) || d.Features().DataSize {
		t.Errorf("size of a pipe: %v", err)
	}
	set(t, d, vfio.StopCopy)
	set(t, d, vfio.Running) // no byte was read: the device can start over
	s := set(t, d, vfio.StopCopy)
	unix.Write(w, []byte("state"))
	unix.Close(w)
	if data, err := io.ReadAll(s); string(data) != "state" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	set(t, d, vfio.Running)
	_, err = d.SetState(vfio.StopCopy)
	if !errors.Is(err, unix.ESPIPE) || !strings.Contains(err.Error(), "first 5 bytes") {
		t.Errorf("second session: %v", err)
	}
	if st, _ := d.State(); st != vfio.Stop {
		t.Errorf("device is in %v", st)
	}
	set(t, d, vfio.Running)
}

func TestLeavingWakesBlockedPipes(t *testing.T) {
	for _, leave := range []func(d vfio.Device) error{
		vfio.Device.Reset, vfio.Device.Close,
		func(d vfio.Device) error { _, err := d.SetState(vfio.Running); return err },
	} {
		r, w := pipe(t)
		src, _ := FromFD(r, "a pipe")
		rs := set(t, src, vfio.StopCopy)
		got := make(chan error)
		go func() { _, err := rs.Read(make([]byte, 1)); got <- err }()
		if _, err := rs.Pending(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Pending during a blocked Read: %v", err)
		}
		if err := leave(src); err != nil {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, vfio.ErrSessionLost) {
			t.Errorf("woken Read: %v", err)
		}
		src.Close()
		unix.Close(w)
	}
}

func TestDestinationBlockedOnAFullPipe(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	d, err := ToFD(w, "a pipe")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := set(t, d, vfio.Resuming)
	got := make(chan error)
	go func() { _, err := s.Write(make([]byte, 1<<20)); got <- err }()
	unix.Read(r, make([]byte, 10))
	if err := d.Reset(); err != nil {
		t.Error(err)
	}
	if err := <-got; !errors.Is(err, vfio.ErrSessionLost) {
		t.Errorf("woken Write: %v", err)
	}
}

func TestDestinationToFD(t *testing.T) {
	r, w := pipe(t)
	d, err := ToFD(w, "a pipe")
	if err != nil {
		t.Fatal(err)
	}
	s := set(t, d, vfio.Resuming)
	s.Write([]byte("ab"))
	s.(vfio.ZeroWriter).WriteZeros(2)
	set(t, d, vfio.Running)
	d.Close()
	out, _ := os.NewFile(uintptr(r), "r"), 0
	defer out.Close()
	if data, err := io.ReadAll(out); string(data) != "ab\x00\x00" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

func TestFailedWriteIsFinal(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	d, err := ToFD(dupAndClose(t, f), "/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := set(t, d, vfio.Resuming)
	for range 2 {
		if _, err := s.Write([]byte("x")); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if _, err := d.SetState(vfio.Stop); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("STOP after a failed write: %v", err)
	}
	if err := d.Reset(); err != nil {
		t.Error(err)
	}
}

// TestFDCannotBeSynced checks that a failed sync is final, in a new session too:
// a later sync would succeed although bytes are lost.
func TestFDCannotBeSynced(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.EROFS} { // EROFS: ext4 was shut down
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := ToFD(dupAndClose(t, f), "inherited")
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		failOnce(&d.backend.(*fdFile).sync, errno)
		set(t, d, vfio.Resuming).Write([]byte("state"))
		for range 2 {
			if _, err := d.SetState(vfio.Stop); !errors.Is(err, errno) {
				t.Errorf("commit: %v, want %v", err, errno)
			}
		}
		if err := d.Reset(); err != nil {
			t.Error(err)
		}
		if _, err := d.SetState(vfio.Resuming); !errors.Is(err, errno) {
			t.Errorf("another session: %v, want %v", err, errno)
		}
	}
}

func TestSplice(t *testing.T) {
	dir := t.TempDir()
	src := source(t, write(t, filepath.Join(dir, "in"), "state"))
	dst := destination(t, filepath.Join(dir, "out"), nil)
	from := set(t, src, vfio.StopCopy).(vfio.Splicer)
	to := set(t, dst, vfio.Resuming).(interface {
		SpliceFrom(pipe, n int) (int, error)
	})
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	for {
		n, err := from.SpliceTo(w, 3)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m, err := to.SpliceFrom(r, n); m != n || err != nil {
			t.Fatal(m, err)
		}
	}
	set(t, dst, vfio.Running)
	wantFiles(t, dir, map[string]string{"in": "state", "out": "state"})
}

// TestSpliceIntoABrokenPipe checks that the error has the offset of the first lost byte.
func TestSpliceIntoABrokenPipe(t *testing.T) {
	src := source(t, write(t, filepath.Join(t.TempDir(), "in"), "state"))
	from := set(t, src, vfio.StopCopy).(vfio.Splicer)
	r, w := pipe(t)
	defer unix.Close(w)
	if n, err := from.SpliceTo(w, 3); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	unix.Close(r)
	n, err := from.SpliceTo(w, 3)
	if e, ok := errors.AsType[*vfio.OpError](err); n != 0 || !ok || e.Offset != 3 || !errors.Is(err, unix.EPIPE) {
		t.Errorf("%d, %v, want 0 and EPIPE at byte 3", n, err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	_, missing := NewSource(filepath.Join(dir, "missing"))
	_, isDir := NewSource(dir)
	_, onDir := NewDestination(dir, &DestinationOptions{Overwrite: true})
	_, noDir := NewDestination(filepath.Join(dir, "missing", "out"), nil)
	_, slash := NewDestination(filepath.Join(dir, "out")+"/", nil)
	src := source(t, write(t, filepath.Join(dir, "in"), ""))
	_, resume := set(t, src, vfio.Resuming).Write([]byte("x"))
	dst := destination(t, filepath.Join(dir, "out"), nil)
	_, stopCopy := set(t, dst, vfio.StopCopy).Read(make([]byte, 1))
	_, preCopy := dst.SetState(vfio.PreCopy)
	for name, tt := range map[string]struct{ got, want error }{
		"no source":                {missing, os.ErrNotExist},
		"directory as source":      {isDir, unix.EISDIR},
		"directory as destination": {onDir, unix.EISDIR},
		"no directory":             {noDir, os.ErrNotExist},
		"path ends in slash":       {slash, os.ErrNotExist},
		"write to a source":        {resume, vfio.ErrRejected},
		"read from a destination":  {stopCopy, unix.EBADF},
		"PRE_COPY":                 {preCopy, vfio.ErrUnsupportedState},
	} {
		if !errors.Is(tt.got, tt.want) || !strings.Contains(tt.got.Error(), "file:"+dir) {
			t.Errorf("%s: %v, want %v and the path", name, tt.got, tt.want)
		}
	}
}

func TestParseDestination(t *testing.T) {
	for _, tt := range []struct {
		in, path  string
		overwrite bool
		bad       bool
	}{
		{in: "/a/b", path: "/a/b"},
		{in: "/a/b?overwrite=1", path: "/a/b", overwrite: true},
		{in: "/a/b?overwrite=0", path: "/a/b"},
		{in: "/a/what?", path: "/a/what?"},
		{in: "/a/b?overwrite=yes", bad: true},
		{in: "/a/b?overwrit=1", bad: true},
		{in: "/a/b?overwrite=1&overwrite=1", bad: true},
		{in: "/a/b?overwrite=%zz", bad: true},
		{in: "/a/b?foo=1", bad: true},
	} {
		path, o, err := ParseDestination(tt.in)
		if (err != nil) != tt.bad {
			t.Errorf("%s: %v", tt.in, err)
		} else if err == nil && (path != tt.path || o.Overwrite != tt.overwrite) {
			t.Errorf("%s: %q, %+v", tt.in, path, o)
		}
	}
}

func TestParseSource(t *testing.T) {
	for _, s := range []string{"/a/b", "/a/what?", "a=b"} {
		if path, err := ParseSource(s); path != s || err != nil {
			t.Errorf("%s: %q, %v", s, path, err)
		}
	}
	for _, s := range []string{"/a/b?foo=1", "/a/b?overwrite=1"} {
		if path, err := ParseSource(s); err == nil {
			t.Errorf("%s: parsed as %q", s, path)
		}
	}
}

// TestRefusedFD checks that a refused fd stays open and its flags do not change.
func TestRefusedFD(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	dir, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	source := func(fd int) error { _, err := FromFD(fd, "fd:7"); return err }
	destination := func(fd int) error { _, err := ToFD(fd, "fd:7"); return err }
	for name, tt := range map[string]struct {
		open  func(fd int) error
		fd    int
		errno unix.Errno
		text  string
	}{
		"a source of the write end":     {source, w, unix.EBADF, "not open for reading"},
		"a destination of the read end": {destination, r, unix.EBADF, "not open for writing"},
		"a source of a directory":       {source, dir, unix.EISDIR, ""},
		"a destination of a directory":  {destination, dir, unix.EBADF, "not open for writing"},
	} {
		unix.FcntlInt(uintptr(tt.fd), unix.F_SETFD, 0) // as inherited
		before, _ := unix.FcntlInt(uintptr(tt.fd), unix.F_GETFL, 0)
		err := tt.open(tt.fd)
		if !errors.Is(err, tt.errno) || !strings.Contains(err.Error(), "file:fd:7: open: ") || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", name, err)
		}
		after, _ := unix.FcntlInt(uintptr(tt.fd), unix.F_GETFL, 0)
		if flags, err := unix.FcntlInt(uintptr(tt.fd), unix.F_GETFD, 0); flags != 0 || err != nil || after != before {
			t.Errorf("%s: the fd has flags %#x and mode %#x (before: %#x), %v", name, flags, after, before, err)
		}
	}
}

// TestDestinationNeedsItsDirectory checks that a missing directory is an error of NewDestination, before the
// migration begins.
func TestDestinationNeedsItsDirectory(t *testing.T) {
	forEachCreator(t, func(t *testing.T, dir string, open func(o *DestinationOptions) *Destination) {
		d := open(nil)
		wantFiles(t, dir, nil)
		e := d.backend.(*pathFile)
		e.path = filepath.Join(dir, "missing", "out")
		if err := e.checkPath(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "cannot create a file in "+filepath.Dir(e.path)) {
			t.Errorf("a missing directory: %v", err)
		}
		e.path = filepath.Join(write(t, filepath.Join(dir, "in"), ""), "out")
		if err := e.checkPath(); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("a file as directory: %v", err)
		}
	})
}

func TestClosed(t *testing.T) {
	dir := t.TempDir()
	src, dst := source(t, write(t, filepath.Join(dir, "in"), "")), destination(t, filepath.Join(dir, "out"), nil)
	src.Close()
	dst.Close()
	for _, d := range []vfio.Device{src, dst} {
		_, serr := d.State()
		_, terr := d.SetState(vfio.Stop)
		for _, err := range []error{serr, terr, d.Reset()} {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("%T: %v", d, err)
			}
		}
	}
}

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("a state of some length. "), 20_000)
	in, out := write(t, filepath.Join(dir, "in"), string(data)), filepath.Join(dir, "out")
	vfiotest.Run(t, vfiotest.Config{
		Source: func(t *testing.T) vfio.Device { d, _ := NewSource(in); return d },
		Destination: func(t *testing.T) vfio.Device {
			d, _ := NewDestination(out, &DestinationOptions{Overwrite: true})
			return d
		},
		Verify: func(t *testing.T, _, destination vfio.Device) {
			set(t, destination, vfio.Running)
			wantFiles(t, dir, map[string]string{"in": string(data), "out": string(data)})
		},
	})
}

func BenchmarkCopy(b *testing.B) {
	dir := b.TempDir()
	path := filepath.Join(dir, "in")
	if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	src, err := NewSource(path)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	dst, err := NewDestination(filepath.Join(dir, "out"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer dst.Close()
	w, buf := set(b, dst, vfio.Resuming), make([]byte, 1<<20)
	r := set(b, src, vfio.StopCopy)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		n, err := r.Read(buf)
		if err == io.EOF {
			set(b, src, vfio.Stop)
			r = set(b, src, vfio.StopCopy)
			dst.SetState(vfio.Stop)
			w = set(b, dst, vfio.Resuming)
			continue
		}
		if _, err := w.Write(buf[:n]); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzParse checks that the path is a prefix of the URL, and that only parameters with a value
// follow it.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a", "a?overwrite=1", "a?b?overwrite=0", "a?", "a?overwrite=2", "a?overwrite=1&overwrite=1", "?x=%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, o, err := ParseDestination(s)
		if err == nil {
			rest, ok := strings.CutPrefix(s, path)
			switch {
			case !ok, rest == "" && o.Overwrite, rest != "" && rest[0] != '?':
				t.Fatalf("%q is %q with %+v", s, path, o)
			case rest != "": // the canonical form parses to the same
				again, p, err := ParseDestination(path + map[bool]string{true: "?overwrite=1", false: "?overwrite=0"}[o.Overwrite])
				if err != nil || again != path || *p != *o {
					t.Fatalf("%q is %q with %+v, but its canonical form is %q with %+v, %v", s, path, o, again, p, err)
				}
			}
		} else if path != "" || o != nil {
			t.Fatalf("%q, %+v with %v", path, o, err)
		}
		if path, err := ParseSource(s); err == nil && path != s && path+"?" != s {
			t.Fatalf("source %q is %q", s, path)
		}
	})
}
