package file

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
)

// sparse makes a file of a size, with letters where parts say.
func sparse(t *testing.T, size int64, parts ...[2]int64) (path string, content []byte) {
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

// TestSkipHole reads files with holes, of which none is read where the file system knows them.
func TestSkipHole(t *testing.T) {
	const k = 1 << 10
	for name, c := range map[string]struct {
		size  int64
		parts [][2]int64
		most  int64 // bytes that are read, not skipped
	}{
		"a hole alone":               {10<<20 + 1, nil, 0},
		"empty":                      {0, nil, 0},
		"no hole":                    {100 * k, [][2]int64{{0, 100 * k}}, 100 * k},
		"data in front and behind":   {8<<20 + 5, [][2]int64{{0, 10}, {8 << 20, 5}}, 16 * k},
		"in the middle":              {9 << 20, [][2]int64{{4<<20 + 7, 100}}, 16 * k},
		"short holes are read":       {256 * k, [][2]int64{{0, 4 * k}, {32 * k, 4 * k}, {64 * k, 4 * k}}, 72 * k},
		"a short one at the end too": {40 * k, [][2]int64{{0, 4 * k}}, 40 * k},
		"many":                       {256 << 10 * 100, many(100, 256*k), 100 * 8 * k},
	} {
		t.Run(name, func(t *testing.T) {
			path, want := sparse(t, c.size, c.parts...)
			s := set(t, source(t, path), vfio.StopCopy)
			var got []byte
			var read int64
			for buf := make([]byte, 96*k); ; {
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
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes were read, of %d, or others", len(got), len(want))
			}
			if read > c.most && knowsHoles(t, filepath.Dir(path)) {
				t.Errorf("%d bytes were read, at most %d are stored", read, c.most)
			}
		})
	}
}

// many are parts of 4 KiB, every so many bytes.
func many(n, every int64) (parts [][2]int64) {
	for i := range n {
		parts = append(parts, [2]int64{i * every, 4 << 10})
	}
	return parts
}

// knowsHoles reports whether the file system tells where holes are.
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

// TestNoHoleInPipes: a pipe, which has no positions, is read as before.
func TestNoHoleInPipes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("state"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	fd, err := unix.Dup(int(r.Fd()))
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	d, err := FromFD(fd, "pipe")
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
