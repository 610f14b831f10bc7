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

// record is what the file of a complete session says of itself. It is an extended
// attribute: file and record have one name, and so they are published, replaced and
// removed in one step.
type record struct {
	id     string
	offset uint64 // bytes that are durable
	note   []byte
}

// attribute is where the record is.
const attribute = "user.migpipe.resume"

// The record: magic, version, lengths and offset; then id, note and a checksum of all
// before it.
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

// noSession is why a file that is there keeps none.
type noSession string

func (e noSession) Error() string        { return string(e) }
func (e noSession) Is(target error) bool { return target == fs.ErrNotExist }

// errNoRecord is bytes that are none, or not all of one.
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

// parseRecord reads all of b.
func parseRecord(b []byte) (record, error) {
	if len(b) < headLen+sumLen || string(b[:4]) != recordMagic || !summed(b) {
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

func summed(b []byte) bool {
	body := len(b) - sumLen
	return binary.BigEndian.Uint32(b[body:]) == crc32c.Sum(b[:body])
}

// store makes the first bytes of a file durable, and after them the record that says
// so: the other way round, a crash in between would leave a record of bytes that are
// not there. The second sync is fsync, since fdatasync leaves out what reading the
// data does not need (fsync(2)), and with that the record.
func store(f *os.File, r record) error {
	if len(r.note) > vfio.MaxNote {
		return fmt.Errorf("%w: a note of %d bytes, at most %d", unix.EINVAL, len(r.note), vfio.MaxNote)
	}
	if err := grow(f, int64(r.offset)); err != nil {
		return err
	}
	if err := fdatasync(f); err != nil {
		return err
	}
	if err := setRecord(f, r); err != nil {
		return err
	}
	return cause(f.Sync())
}

// tryRecord finds out whether the file system has extended attributes.
func tryRecord(f *os.File) error {
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

// grow makes a hole at the end part of the file.
func grow(f *os.File, size int64) error {
	st, err := f.Stat()
	if err != nil || st.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

// load reads the record of a file that holds at least what the record tells of.
func load(f *os.File, id string) (record, error) {
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
		return record{}, noSession(fmt.Sprintf("its record is of %q", r.id))
	case uint64(st.Size()) < r.offset:
		return record{}, noSession(fmt.Sprintf("it has %d bytes, its record tells of %d", st.Size(), r.offset))
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

// recordOf reads the record of a file that has its name: that of a session that is
// committed. All of its bytes were durable before it had the name.
func recordOf(path string) (record, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return record{}, err
	}
	if !st.Mode().IsRegular() {
		return record{}, noSession("it is no file")
	}
	b, err := attributeOf(func(b []byte) (int, error) { return unix.Lgetxattr(path, attribute, b) })
	if err != nil {
		return record{}, err
	}
	return parseRecord(b)
}

// recorded reports whether a file has a record, whatever that says.
func recorded(path string) bool {
	n, err := unix.Lgetxattr(path, attribute, nil)
	return err == nil && n > 0
}
