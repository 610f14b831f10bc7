package journal

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport/migration"
)

// Found is a journal that [Scan] has found. It is valid until the next one is asked for.
type Found struct {
	dir    *os.File
	fd     int
	name   string
	role   Role
	mig    migration.ID
	reader reader
}

// Scan opens and reads each journal of a role in a directory once, in the order of the
// directory. It holds one journal in memory, and leaves little to the garbage collector: a
// host may have thousands. It takes no locks.
//
// An error comes with the Found that cannot be read, and Scan continues with the next. An error
// without a Found means that the directory cannot be read. A file that is no journal yet has
// no records. Scan skips a file that another process removes meanwhile.
func Scan(dir string, role Role) iter.Seq2[*Found, error] {
	return func(yield func(*Found, error) bool) {
		d, err := os.Open(dir)
		if err != nil {
			yield(nil, err)
			return
		}
		defer d.Close()
		found := &Found{dir: d, role: role}
		buf, names := make([]byte, 8<<10), []string(nil) // not Readdirnames, which makes a new list each time
		for {
			n, err := unix.ReadDirent(int(d.Fd()), buf)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				yield(nil, &fs.PathError{Op: "read", Path: dir, Err: err})
				return
			case n <= 0:
				return
			}
			_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
			for _, name := range names {
				if !found.visit(name, yield) {
					return
				}
			}
		}
	}
}

// visit reads one file, if it is a journal.
func (f *Found) visit(name string, yield func(*Found, error) bool) bool {
	mig, ok := migOf(name, f.role)
	if !ok {
		return true
	}
	fd, err := unix.Openat(int(f.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return true
	}
	f.name, f.mig, f.fd = name, mig, fd
	if err == nil {
		defer unix.Close(fd)
		err = f.read()
	}
	if err != nil {
		err = &fs.PathError{Op: "read journal", Path: f.Path(), Err: err}
	}
	return yield(f, err)
}

func (f *Found) read() error {
	err := f.reader.read(f.fd)
	if err == nil && len(f.reader.all) > 0 {
		err = belongs(f.reader.all[0], f.role, f.mig)
	}
	return err
}

// Path is the file.
func (f *Found) Path() string { return filepath.Join(f.dir.Name(), f.name) }

// Mig is the migration.
func (f *Found) Mig() migration.ID { return f.mig }

// Newest is the newest record without its text, and false where there is none.
func (f *Found) Newest() (Record, bool) {
	if len(f.reader.all) == 0 {
		return Record{}, false
	}
	return f.reader.all[len(f.reader.all)-1], true
}

// Last is the newest record. It panics if there is none: see [Found.Newest].
func (f *Found) Last() Record {
	last := f.reader.all[len(f.reader.all)-1]
	last.Why.Text = text(f.reader.text[(last.Seq-1)*recordLen:])
	return last
}

// Devices are the newest list of devices, nil where the journal has none: then it may be
// about any.
func (f *Found) Devices() []Device { return decodeDevices(f.reader.deviceBytes()) }

// Trusted refuses a file that another user owns or may write: no program may act on it.
func (f *Found) Trusted() error {
	if err := safefile.CheckOwner(&f.reader.stat); err != nil {
		return &fs.PathError{Op: "read journal", Path: f.Path(), Err: err}
	}
	return nil
}

// Records are the records of the journal, in order: none where it has none yet.
func (f *Found) Records() []Record { return f.reader.records() }

// Prune removes the journal if its migration ended before a time, or if the file is no journal
// yet, and reports whether it did. A journal that another process has open stays. Prune decides
// by the content that the file has under the lock, and removes the name while it holds the
// lock: a process that has opened the file meanwhile finds a file without a name.
//
// The wall clock gives the age. A jump of the clock can cost the record of an ended migration,
// which nothing depends on, and no other record.
func (f *Found) Prune(before time.Time) (removed bool, err error) {
	if !over(f.reader.all, before) || lock(f.fd) != nil {
		return false, nil
	}
	if f.read() != nil || !over(f.reader.all, before) {
		return false, nil
	}
	if err := unix.Unlinkat(int(f.dir.Fd()), f.name, 0); err != nil {
		return false, &fs.PathError{Op: "remove an old journal", Path: f.Path(), Err: err}
	}
	return true, nil
}
