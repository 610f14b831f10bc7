package file

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
)

// createSparse creates a file of a size, with letters in the given parts.
func createSparse(t *testing.T, size int64, parts ...[2]int64) (path string, content []byte) {
	t.Helper()
	path, content = filepath.Join(t.TempDir(), "state"), make([]byte, size)
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(size)
	}
	for _, p := range parts {
		data := bytes.Repeat([]byte{'x'}, int(p[1]))
		copy(content[p[0]:], data)
		if _, werr := f.WriteAt(data, p[0]); werr != nil {
			err = werr
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path, content
}

// TestSkipHole reads files with holes. It must not read a hole that the file system knows.
func TestSkipHole(t *testing.T) {
	const k = 1 << 10
	for name, c := range map[string]struct {
		size  int64
		parts [][2]int64
		most  int64 // bytes that may be read instead of skipped
	}{
		"only a hole":                     {10<<20 + 1, nil, 0},
		"empty":                           {0, nil, 0},
		"no hole":                         {100 * k, [][2]int64{{0, 100 * k}}, 100 * k},
		"data at begin and end":           {8<<20 + 5, [][2]int64{{0, 10}, {8 << 20, 5}}, 16 * k},
		"data in the middle":              {9 << 20, [][2]int64{{4<<20 + 7, 100}}, 16 * k},
		"short holes are read":            {256 * k, [][2]int64{{0, 4 * k}, {32 * k, 4 * k}, {64 * k, 4 * k}}, 72 * k},
		"a short hole at the end is read": {40 * k, [][2]int64{{0, 4 * k}}, 40 * k},
		"many holes":                      {256 << 10 * 100, repeatParts(100, 256*k), 100 * 8 * k},
	} {
		t.Run(name, func(t *testing.T) {
			path, want := createSparse(t, c.size, c.parts...)
			s := set(t, source(t, path), vfio.StopCopy)
			got, read := readHoles(t, s, nil)
			if !bytes.Equal(got, want) {
				t.Errorf("read %d bytes, want %d, or the content differs", len(got), len(want))
			}
			if read > c.most && knowsHoles(t, filepath.Dir(path)) {
				t.Errorf("read %d bytes of which at most %d are stored", read, c.most)
			}
		})
	}
}

// readHoles reads a session to its end. read is the number of bytes that were not skipped. step,
// if set, is called before each step.
func readHoles(t *testing.T, s vfio.Stream, step func(at int)) (got []byte, read int64) {
	t.Helper()
	for buf := make([]byte, 96<<10); ; {
		if step != nil {
			step(len(got))
		}
		n, err := s.(vfio.HoleReader).SkipHole(len(buf))
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			got = append(got, make([]byte, n)...)
			continue
		}
		n, err = s.Read(buf)
		got, read = append(got, buf[:n]...), read+int64(n)
		if err == io.EOF {
			return got, read
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestHolesFromTheMiddle reads from the fd's position, which is within a hole.
func TestHolesFromTheMiddle(t *testing.T) {
	path, want := createSparse(t, 3<<20+9, [2]int64{1 << 20, 3})
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Seek(fd, 1001, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	d, err := FromFD(fd, "lent")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 2 { // two sessions
		if got, _ := readHoles(t, set(t, d, vfio.StopCopy), nil); !bytes.Equal(got, want[1001:]) {
			t.Errorf("read %d bytes, want %d, or the content differs", len(got), len(want)-1001)
		}
		set(t, d, vfio.Running)
	}
}

// TestHolesThatChange truncates and extends a file while it is read. The stream ends at the end
// that the file has when the reader reaches it.
func TestHolesThatChange(t *testing.T) {
	path, _ := createSparse(t, 4<<20, [2]int64{0, 5})
	for name, size := range map[string]int64{"cut in a hole": 1<<20 + 17, "longer": 5<<20 + 3} {
		t.Run(name, func(t *testing.T) {
			var once bool
			got, _ := readHoles(t, set(t, source(t, path), vfio.StopCopy), func(at int) {
				if at < 1<<20 || once {
					return
				}
				once = true
				if err := os.Truncate(path, size); err != nil {
					t.Fatal(err)
				}
			})
			// Skipped bytes may be beyond the end of the truncated file.
			if n := int64(len(got)); n < size || n > size+96<<10 || !bytes.Equal(got[:5], []byte("xxxxx")) || !bytes.Equal(got[5:], make([]byte, n-5)) {
				t.Errorf("read %d bytes, want %d, or the content differs", n, size)
			}
			if err := os.Truncate(path, 4<<20); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestHolesThroughAnFD checks that a Destination of an fd of a regular file leaves holes too, behind the
// end of the file.
func TestHolesThroughAnFD(t *testing.T) {
	const zeros = 8 << 20
	for name, c := range map[string]struct {
		before string // content of the file
		at     int64  // position of the fd
		flags  int
		want   string // content before and after the zeros
		sparse bool
	}{
		"empty":               {"", 0, 0, "ab|c", true},
		"at the end":          {"old", 3, 0, "oldab|c", true},
		"behind the end":      {"old", 5, 0, "old\x00\x00ab|c", true},
		"over existing bytes": {strings.Repeat("x", 100<<10), 0, 0, "ab|c", false},
		"O_APPEND":            {"old", 0, unix.O_APPEND, "oldab|c", false},
	} {
		for _, tail := range []bool{false, true} {
			path := write(t, filepath.Join(t.TempDir(), "f"), c.before)
			fd, err := unix.Open(path, unix.O_WRONLY|c.flags, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Seek(fd, c.at, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			d, err := ToFD(fd, "lent")
			if err != nil {
				t.Fatal(err)
			}
			s := set(t, d, vfio.Resuming)
			front, back, _ := strings.Cut(c.want, "|")
			if tail {
				back = ""
			}
			s.Write([]byte("ab"))
			if err := s.(vfio.ZeroWriter).WriteZeros(zeros); err != nil {
				t.Error(err)
			}
			s.Write([]byte(back))
			set(t, d, vfio.Running)
			d.Close()
			got, err := os.ReadFile(path)
			if want := front + string(make([]byte, zeros)) + back; string(got) != want || err != nil {
				t.Errorf("%s: %d bytes, want %d, or the content differs: %v", name, len(got), len(want), err)
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || (st.Blocks*512 < zeros/2) != c.sparse {
				t.Errorf("%s: %d bytes are stored (%v)", name, st.Blocks*512, err)
			}
		}
	}
}

// repeatParts returns n parts of 4 KiB, one every so many bytes.
func repeatParts(n, every int64) (parts [][2]int64) {
	for i := range n {
		parts = append(parts, [2]int64{i * every, 4 << 10})
	}
	return parts
}

// knowsHoles reports whether the file system supports SEEK_HOLE.
func knowsHoles(t *testing.T, dir string) bool {
	t.Helper()
	f, err := os.CreateTemp(dir, "")
	if err == nil {
		defer f.Close()
		err = f.Truncate(1 << 20)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Seek(0, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO)
}

// TestNoHoleInPipes checks that a pipe, which has no positions, is read without holes.
func TestNoHoleInPipes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("state"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	d, err := FromFD(dupAndClose(t, r), "pipe")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := set(t, d, vfio.StopCopy)
	if n, err := s.(vfio.HoleReader).SkipHole(100); n != 0 || err != nil {
		t.Errorf("a hole of %d bytes in a pipe, %v", n, err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "state" {
		t.Errorf("%q, %v", got, err)
	}
}
