package file

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// leastHole is the shortest hole that is not read as data: a chunk of its own costs more
// than reading the zeros of a shorter one.
const leastHole = 64 << 10

// mostLooks bounds the search for such a hole. What is behind the last one looked at is
// looked up when it comes.
const mostLooks = 64

// holes is what is known of the holes of a regular file, by positions in the file.
type holes struct {
	start int64 // of the session's first byte
	data  int64 // from the next byte up to here, all is stored
	end   int64 // from there, or from the next byte on, nothing is up to here
}

// before is how many of the next n bytes are in front of the next hole.
func (h *holes) before(offset int64, n int) int {
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
	n, err := s.use(false, func() (int, error) { return s.holes.skip(s.f, s.offset.Load(), int64(n)) })
	if err != nil {
		return 0, s.fail("skip a hole", err)
	}
	return n, nil
}

// skip moves the file's position, which is that of the session's next byte, behind a hole. The
// file may have been cut in the middle of that: a hole does not go beyond its end.
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

// nextHole finds the next hole that is long enough, from a position on: where it begins, and
// where it ends (lseek(2), SEEK_DATA and SEEK_HOLE). There is none up to the first if they are
// the same. A file system that knows no holes has data up to the end.
func nextHole(f *os.File, at, size int64) (begin, end int64) {
	begin = at
	for range mostLooks {
		if begin >= size {
			break
		}
		data, err := f.Seek(begin, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || data > size { // a hole up to the end
			data = size
		} else if err != nil {
			return size, size
		}
		if data-begin >= leastHole {
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
