package file

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// minHole is the length of the shortest hole that is skipped. A shorter hole is read as data,
// since a chunk of its own costs more than a read of its zeros.
const minHole = 64 << 10

// maxLookups bounds one search for such a hole. A later search continues behind the last hole
// that was looked up.
const maxLookups = 64

// holes holds the next hole of a regular file. All values are positions in the file.
type holes struct {
	start int64 // the session's first byte
	data  int64 // begin of the next hole: all bytes before it are stored
	end   int64 // end of the next hole
}

// bytesBefore returns how many of the next n bytes are before the next hole.
func (h *holes) bytesBefore(offset int64, n int) int {
	if h == nil || h.data <= h.start+offset {
		return n
	}
	return int(min(int64(n), h.data-h.start-offset))
}

// SkipHole implements [vfio.HoleReader]. Only regular files have holes.
func (s *session) SkipHole(n int) (int, error) {
	if s.holes == nil {
		return 0, nil
	}
	n, err := s.withFile(false, func() (int, error) { return s.holes.skip(s.f, s.offset.Load(), int64(n)) })
	if err != nil {
		return 0, s.fail("skip a hole", err)
	}
	return n, nil
}

// skip moves the file's position, which is that of the session's next byte, to the end of a
// hole. The file may have been truncated meanwhile: a hole does not extend beyond its end.
func (h *holes) skip(f *os.File, offset, n int64) (int, error) {
	at := h.start + offset
	if at < h.data {
		return 0, nil
	}
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if at >= h.end {
		h.data, h.end = nextHole(f, at, st.Size())
	}
	if n = min(n, h.end-at, st.Size()-at); at < h.data || n < 0 {
		n = 0
	}
	_, err = f.Seek(at+n, io.SeekStart) // nextHole has moved it
	return int(n), err
}

// nextHole returns the begin and end of the next hole, from a position on, that has at least
// minHole bytes (lseek(2), SEEK_DATA and SEEK_HOLE). If both are the same, there is no hole
// before that position. On a file system without holes all bytes are data.
func nextHole(f *os.File, at, size int64) (begin, end int64) {
	begin = at
	for range maxLookups {
		if begin >= size {
			break
		}
		data, err := f.Seek(begin, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || data > size { // a hole up to the end
			data = size
		} else if err != nil {
			return size, size
		}
		if data-begin >= minHole {
			return begin, data
		}
		if data == size {
			return size, size
		}
		if begin, err = f.Seek(data, unix.SEEK_HOLE); err != nil || begin <= data {
			return size, size
		}
	}
	return begin, begin
}
