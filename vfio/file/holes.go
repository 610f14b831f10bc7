package file

import (
	"errors"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// leastHole is the shortest hole that is told apart from data: a chunk of its own costs more
// than reading the zeros of a shorter one.
const leastHole = 64 << 10

// mostLooks bounds the search for such a hole. What is behind the last one looked at is
// looked up when it comes.
const mostLooks = 64

// holes is what is known of the holes of a file that is read. The offsets are those of the
// session, from its first byte on. The zero value knows of none.
type holes struct {
	data int64 // the next byte up to here is stored
	hole int64 // and behind that, or from the next byte on, none is up to here
}

// before is how many of the next n bytes are in front of the next hole.
func (h *holes) before(offset int64, n int) int {
	if h.data <= offset {
		return n
	}
	return int(min(int64(n), h.data-offset))
}

// SkipHole implements [vfio.HoleReader].
func (s *session) SkipHole(n int) (int, error) {
	n, err := s.use(false, func() (int, error) { return s.skipHole(int64(n)) })
	if err != nil {
		return 0, s.fail("skip a hole", err)
	}
	return n, nil
}

func (s *session) skipHole(n int64) (int, error) {
	offset := s.offset.Load()
	if s.holes.data <= offset && s.holes.hole <= offset {
		if err := s.holes.find(s.f, offset); err != nil {
			return 0, err
		}
	}
	if s.holes.data > offset || s.holes.hole <= offset {
		return 0, nil
	}
	n = min(n, s.holes.hole-offset)
	_, err := s.f.Seek(n, io.SeekCurrent)
	return int(n), err
}

// find looks up what is next in the file, at whose position the session's next byte is. The
// position stays (lseek(2), SEEK_DATA).
func (h *holes) find(f *os.File, offset int64) error {
	at, err := f.Seek(0, io.SeekCurrent)
	if errors.Is(err, unix.ESPIPE) { // a pipe
		*h = holes{data: math.MaxInt64}
		return nil
	}
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	next, end, looked := seekHole(f, at, size)
	*h = holes{data: offset + next - at, hole: offset + end - at}
	if !looked { // what is behind that may be stored, too
		h.hole = h.data
	}
	_, err = f.Seek(at, io.SeekStart)
	return err
}

// seekHole finds the next hole that is long enough, from a position on: where it begins, and
// where it ends. A file system that knows no holes has data up to the end. looked is false
// where only the beginning was looked at.
func seekHole(f *os.File, at, size int64) (begin, end int64, looked bool) {
	looks := mostLooks
	for begin = at; begin < size; begin = end {
		data, err := f.Seek(begin, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || data > size { // a hole up to the end
			data = size
		} else if err != nil {
			return size, size, true
		}
		if data-begin >= leastHole {
			return begin, data, true
		}
		if data >= size {
			break
		}
		if end, err = f.Seek(data, unix.SEEK_HOLE); err != nil || end <= data {
			return size, size, true
		}
		if looks--; looks == 0 {
			return end, end, false
		}
	}
	return size, size, true
}
