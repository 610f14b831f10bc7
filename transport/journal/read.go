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
	stat    unix.Stat_t
	text    []byte   // the file
	all     []Record // its whole records, in order, without Why.Text
	used    int      // the slots that have a record or a part of a list of devices
	devices deviceList
}

// read reads an open file. It ends at the first slot that holds no record: nothing was
// written behind it.
//
// A file that is not longer than its first record, and does not hold it, is no journal yet:
// a crash came before the disk had the first record, or the process that makes the file is
// about to write it. No peer knows of it. It has no records, and that is no error.
func (r *reader) read(fd int) error {
	r.text = r.text[:0]
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
func (r *reader) parse() error {
	r.all, r.used, r.devices = r.all[:0], 0, deviceList{}
	if err := r.parseSlots(); err != nil {
		return err
	}
	switch size := len(r.text); {
	case len(r.all) == 0 && size > recordLen: // a crash leaves less of the first record
		return fmt.Errorf("%w: %d bytes without a first record", ErrDamaged, size)
	case r.used > 1 && size < ahead*recordLen: // the first attempt's room was there before its first record
		return fmt.Errorf("%w: it was cut to %d bytes", ErrDamaged, size)
	}
	return nil
}

// records are the records with their texts.
func (r *reader) records() []Record {
	for i := range r.all {
		r.all[i].Why.Text = text(r.text[(r.all[i].Seq-1)*recordLen:])
	}
	return r.all
}

// deviceBytes are the newest list of devices, encoded.
func (r *reader) deviceBytes() []byte { return r.devices.bytes(r.text) }

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

// zeros are compared with slots that are reserved and not written.
var zeros [64 * recordLen]byte

// parseSlots reads slots until one is not whole. A crash can tear the slot that was being
// written; nothing was written behind it. Anything else is the work of a disk that loses
// writes, or of another program.
func (r *reader) parseSlots() error {
	b := r.text
	for ; len(b) >= recordLen; b = b[recordLen:] {
		found, err := readHeader(b)
		if errors.Is(err, errNoRecord) {
			break
		}
		if err == nil && (found.Seq != uint64(r.used)+1 || r.used > 0 && (len(r.all) == 0 || !follows(r.all[0], found))) {
			err = fmt.Errorf("%w: record %d of migration %v in slot %d", ErrDamaged, found.Seq, found.Attempt.Mig, r.used+1)
		}
		if err == nil {
			err = r.addSlot(found, b)
		}
		if err != nil {
			return err
		}
		r.used++
	}
	for rest := b[min(len(b), recordLen):]; len(rest) > 0; rest = rest[min(len(rest), len(zeros)):] {
		if part := rest[:min(len(rest), len(zeros))]; !bytes.Equal(part, zeros[:len(part)]) {
			return fmt.Errorf("%w: there is something behind record %d, which is not whole", ErrDamaged, r.used+1)
		}
	}
	return nil
}

// addSlot takes a slot that is whole and in its place.
func (r *reader) addSlot(found Record, b []byte) error {
	if b[atKind] == kindDevices {
		return r.devices.add(r.used, b)
	}
	err := found.readBody(b)
	if err == nil {
		r.all = append(r.all, found)
	}
	return err
}

// follows reports whether a record is of the same file as the first record.
func follows(first, r Record) bool {
	return r.Role == first.Role && r.Journal == first.Journal && r.Attempt.Mig == first.Attempt.Mig
}

// Read returns the records of a journal, for people: it takes no lock, and the process that
// has the journal open may append to it meanwhile. The error is fs.ErrNotExist where there is
// no journal yet.
func Read(path string) ([]Record, error) {
	all, _, err := ReadWithDevices(path)
	return all, err
}

// ReadWithDevices is [Read] with the newest list of devices, nil where there is none.
func ReadWithDevices(path string) ([]Record, []Device, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	var r reader
	err = r.read(int(f.Fd()))
	if err == nil && len(r.all) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, nil, &fs.PathError{Op: "read journal", Path: path, Err: err}
	}
	return r.records(), decodeDevices(r.deviceBytes()), nil
}

// List returns the paths of the journals of one role in a directory, in the order of their
// names.
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

// migOf is the migration that a file is named after, and false for a file that is no journal
// of the role.
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
