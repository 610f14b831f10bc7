package file

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/crc32c"
	"github.com/migpipe/migpipe/vfio"
)

// record describes the complete session whose state a file holds. It is an extended
// attribute of the file, so that one step publishes, replaces or removes both.
type record struct {
	id     string
	offset uint64 // bytes that are durable
	note   []byte
}

// attribute is the name of the record's extended attribute.
const attribute = "user.migpipe.resume"

// The layout of a record: magic, version, lengths and offset; then id, note, and a
// checksum of all bytes before it.
const (
	recordMagic   = "MIGF"
	recordVersion = 1

	atVersion = 4
	atIDLen   = 5
	atNoteLen = 6
	atOffset  = 8
	headLen   = 16
	sumLen    = 4

	maxID     = 64
	maxRecord = headLen + maxID + vfio.MaxNote + sumLen
)

// noSession is the reason why an existing file holds no complete session.
type noSession string

func (e noSession) Error() string        { return string(e) }
func (e noSession) Is(target error) bool { return target == fs.ErrNotExist }

// errNoRecord is the error for bytes that are not a whole record.
const errNoRecord = noSession("its record is damaged")

func (r record) encode() []byte {
	b := make([]byte, headLen, maxRecord)
	copy(b, recordMagic)
	b[atVersion], b[atIDLen] = recordVersion, byte(len(r.id))
	binary.BigEndian.PutUint16(b[atNoteLen:], uint16(len(r.note)))
	binary.BigEndian.PutUint64(b[atOffset:], r.offset)
	return appendSum(append(append(b, r.id...), r.note...))
}

func appendSum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32c.Sum(b))
}

// parseRecord parses b, which must be exactly one record.
func parseRecord(b []byte) (record, error) {
	if len(b) < headLen+sumLen || string(b[:4]) != recordMagic || !hasValidSum(b) {
		return record{}, errNoRecord
	}
	if b[atVersion] != recordVersion {
		return record{}, fmt.Errorf("its record has version %d, this program knows %d", b[atVersion], recordVersion)
	}
	idLen, noteLen := int(b[atIDLen]), int(binary.BigEndian.Uint16(b[atNoteLen:]))
	r := record{offset: binary.BigEndian.Uint64(b[atOffset:])}
	if idLen > maxID || noteLen > vfio.MaxNote || len(b) != headLen+idLen+noteLen+sumLen || r.offset > math.MaxInt64 {
		return record{}, errNoRecord
	}
	r.id, r.note = string(b[headLen:][:idLen]), b[headLen+idLen:][:noteLen:noteLen]
	return r, nil
}

func hasValidSum(b []byte) bool {
	body := len(b) - sumLen
	return binary.BigEndian.Uint32(b[body:]) == crc32c.Sum(b[:body])
}

// storeRecord makes the first bytes of a file durable, and then the record. In the other
// order, a crash in between would leave a record of bytes that are missing. The second sync
// is fsync, since fdatasync omits metadata that a read does not need (fsync(2)), and so the
// record.
func storeRecord(f *os.File, r record) error {
	if len(r.note) > vfio.MaxNote {
		return fmt.Errorf("%w: a note of %d bytes, at most %d", unix.EINVAL, len(r.note), vfio.MaxNote)
	}
	if err := extend(f, int64(r.offset)); err != nil {
		return err
	}
	if err := fdatasync(f); err != nil {
		return err
	}
	if err := setRecord(f, r); err != nil {
		return err
	}
	return stripPath(f.Sync())
}

// probeRecord fails if the file system has no extended attributes.
func probeRecord(f *os.File) error {
	err := setRecord(f, record{})
	if err == nil {
		err = onFD(f, func(fd int) error { return unix.Fremovexattr(fd, attribute) })
	}
	return err
}

func setRecord(f *os.File, r record) error {
	err := onFD(f, func(fd int) error { return unix.Fsetxattr(fd, attribute, r.encode(), 0) })
	if err != nil {
		return fmt.Errorf("set attribute %s: %w", attribute, err)
	}
	return nil
}

// extend extends a file to size, if it ends with a hole.
func extend(f *os.File, size int64) error {
	st, err := f.Stat()
	if err != nil || st.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

// loadRecord reads the record of a file. It checks the id, and that the file has as many bytes
// as the record names.
func loadRecord(f *os.File, id string) (record, error) {
	b, err := readAttribute(f)
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(b)
	if err != nil {
		return record{}, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
		return record{}, err
	case r.id != id:
		return record{}, noSession(fmt.Sprintf("its record has the id %q", r.id))
	case uint64(st.Size()) < r.offset:
		return record{}, noSession(fmt.Sprintf("it has %d bytes, but its record names %d", st.Size(), r.offset))
	}
	return r, nil
}

func readAttribute(f *os.File) (b []byte, err error) {
	cerr := onFD(f, func(fd int) error {
		b, err = attributeOf(func(b []byte) (int, error) { return unix.Fgetxattr(fd, attribute, b) })
		return nil
	})
	return b, errors.Join(cerr, err)
}

func attributeOf(get func(b []byte) (int, error)) ([]byte, error) {
	b := make([]byte, maxRecord)
	n, err := get(b)
	switch {
	case errors.Is(err, unix.ENODATA):
		return nil, noSession("it has no record")
	case errors.Is(err, unix.ERANGE): // longer than b
		return nil, errNoRecord
	case err != nil:
		return nil, fmt.Errorf("get attribute %s: %w", attribute, err)
	}
	return b[:n], nil
}

// publishedRecord reads the record of a file with its final name: the record of a committed
// session. It does not check the file's size, since all bytes were durable before the commit.
func publishedRecord(path string) (record, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return record{}, err
	}
	if !st.Mode().IsRegular() {
		return record{}, noSession("it is not a regular file")
	}
	b, err := attributeOf(func(b []byte) (int, error) { return unix.Lgetxattr(path, attribute, b) })
	if err != nil {
		return record{}, err
	}
	return parseRecord(b)
}

// hasRecord reports whether a file has a record, which may be invalid.
func hasRecord(path string) bool {
	n, err := unix.Lgetxattr(path, attribute, nil)
	return err == nil && n > 0
}
