package journal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport/migration"
)

// reader reads journals, each into the memory of the one before.
type reader struct {
	stat unix.Stat_t
	text []byte   // the file
	all  []Record // its whole records, in order, without Why.Text
}

// read reads an open file. It ends at the first slot that holds no record: nothing was
// written behind it.
//
// A file that is not longer than its first record, and does not hold it, is no journal yet:
// a crash came before the first record was on the disk, or the process that makes the file
// is about to write it. No peer has heard of it. It has no records, which is no error.
func (r *reader) read(fd int) error {
	r.all, r.text = r.all[:0], r.text[:0]
	if err := unix.Fstat(fd, &r.stat); err != nil {
		return err
	}
	size := r.stat.Size
	if r.stat.Mode&unix.S_IFMT != unix.S_IFREG || size > maxSlots*recordLen {
		return fmt.Errorf("%w: a file of %d bytes, mode %o", ErrDamaged, size, r.stat.Mode)
	}
	if int64(cap(r.text)) < size {
		r.text = make([]byte, size)
	}
	r.text = r.text[:size]
	if err := preadFull(fd, r.text); err != nil {
		return err
	}
	return r.parse()
}

// parse finds the records of a file.
func (r *reader) parse() (err error) {
	if r.all, err = parse(r.all, r.text); err != nil {
		return err
	}
	switch size := len(r.text); {
	case len(r.all) == 0 && size > recordLen: // a crash leaves less of the first record
		return fmt.Errorf("%w: %d bytes without a first record", ErrDamaged, size)
	case len(r.all) > 1 && size < ahead*recordLen: // the first attempt's room was there before its first record
		return fmt.Errorf("%w: it was cut to %d bytes", ErrDamaged, size)
	}
	return nil
}

// records are those of the file with all that they say.
func (r *reader) records() []Record {
	for i := range r.all {
		r.all[i].Why.Text = text(r.text[i*recordLen:])
	}
	return r.all
}

func preadFull(fd int, b []byte) error {
	for at := 0; at < len(b); {
		n, err := unix.Pread(fd, b[at:], int64(at))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			at += n
		}
	}
	return nil
}

// zeros is the longest part of a file that is reserved and not written.
var zeros [64 * recordLen]byte

// parse reads records until one is not whole. A crash can tear the one that was
// being written; behind that nothing was. Anything else is the work of a disk that
// forgets, or of another program.
func parse(all []Record, b []byte) ([]Record, error) {
	for ; len(b) >= recordLen; b = b[recordLen:] {
		r, err := fields(b)
		if errors.Is(err, errNoRecord) {
			break
		}
		if err == nil && (r.Seq != uint64(len(all))+1 || len(all) > 0 && !follows(all[0], r)) {
			err = fmt.Errorf("%w: record %d of migration %v in slot %d", ErrDamaged, r.Seq, r.Attempt.Mig, len(all)+1)
		}
		if err != nil {
			return all, err
		}
		all = append(all, r)
	}
	for rest := b[min(len(b), recordLen):]; len(rest) > 0; rest = rest[min(len(rest), len(zeros)):] {
		if part := rest[:min(len(rest), len(zeros))]; !bytes.Equal(part, zeros[:len(part)]) {
			return all, fmt.Errorf("%w: there is something behind record %d, which is not whole", ErrDamaged, len(all)+1)
		}
	}
	return all, nil
}

// follows reports whether a record is of the same file as its first.
func follows(first, r Record) bool {
	return r.Role == first.Role && r.Journal == first.Journal && r.Attempt.Mig == first.Attempt.Mig
}

// Read gives the records of a journal, for people: nothing is locked, and the process that
// has it open may write on. The error is fs.ErrNotExist where there is no journal yet.
func Read(path string) ([]Record, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r reader
	err = r.read(int(f.Fd()))
	if err == nil && len(r.all) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read journal", Path: path, Err: err}
	}
	return r.records(), nil
}

// List gives the paths of a folder's journals of one role, in order of their names.
func List(dir string, role Role) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, f := range files {
		if _, ok := migOf(f.Name(), role); ok {
			paths = append(paths, filepath.Join(dir, f.Name()))
		}
	}
	return paths, nil
}

// migOf is the migration that a file's name says, if it is that of a journal of a role.
// All other files are not this program's.
func migOf(name string, role Role) (mig migration.ID, ok bool) {
	id, ok := strings.CutSuffix(name, role.suffix())
	if !ok || len(id) != 2*len(mig) {
		return mig, false
	}
	var again [2 * len(mig)]byte
	_, err := hex.Decode(mig[:], []byte(id))
	hex.Encode(again[:], mig[:])
	return mig, err == nil && string(again[:]) == id // the digits are lower case
}
