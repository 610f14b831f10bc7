// Package journal keeps what a side of a migration has decided where a crash
// does not reach it: one append-only file for each migration and side.
//
// The file is a row of fixed slots. Its first has the id that the peer knows the
// file by; a slot is written once, with one pwrite and one fdatasync, before the
// message that announces it is sent. When an attempt begins the slots that it needs
// are filled with zeros, so that a disk that is full then says so, and not at COMMIT
// (but on file systems that write nothing in place). What is torn by a crash was
// never announced, and is no record: the last whole one counts.
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

var (
	// ErrBusy says that another process has the journal open: it does the
	// migration's work, or is about to.
	ErrBusy = errors.New("the journal is in use by another process")
	// ErrVolatile says that the folder is on a file system that a restart of the
	// host empties, or that does not say where its files are.
	ErrVolatile = errors.New("the file system does not keep files over a restart of the host")
	// ErrDamaged says that a file is no journal, or not the one that its name says.
	ErrDamaged = errors.New("damaged journal")
	// ErrClosed says that an earlier write has failed, or the journal was closed.
	// What the file holds, only opening it anew tells.
	ErrClosed = errors.New("the journal takes no more records")
)

// ahead is how many slots are kept ready: more than an attempt needs.
const ahead = 16

// maxSlots bounds a file: some hundred attempts.
const maxSlots = 4096

// Options are what is known of a migration when its journal is opened.
type Options struct {
	Role Role
	Mig  migration.ID
	// Volatile allows a file system that does not outlive the host, for hosts
	// that have no other. A crash of the host is then the loss of the journal.
	Volatile bool
	// Existing opens a journal that is there, and makes none.
	Existing bool
}

var _ handoff.Lasting = (*Journal)(nil)

// Journal is an open journal, locked against all others. It implements
// handoff.Lasting.
type Journal struct {
	file  *os.File
	role  Role
	mig   migration.ID
	id    migration.JournalID
	all   []Record
	slots uint64        // that are ready to be written, in all
	err   error         // why nothing more is appended
	took  time.Duration // the shortest write so far
}

// Name is the name of a journal's file.
func Name(role Role, mig migration.ID) string { return mig.String() + "." + role.String() }

// removal is how long Open waits for another process that removes an empty file.
const removal = time.Second

// Open opens the journal of one side of a migration in a folder, or makes it. What
// it says is durable when Open returns, whatever the last writer came to.
//
// A file that another process removes meanwhile is made again. With Options.Existing an
// empty file is no journal: the error is fs.ErrNotExist then.
func Open(dir string, o Options) (*Journal, error) {
	if err := Check(dir, o.Volatile); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, Name(o.Role, o.Mig))
	for end := time.Now().Add(removal); ; time.Sleep(time.Millisecond) {
		j, err := openFile(path, dir, o)
		if !errors.Is(err, errRemoved) || time.Now().After(end) {
			return j, err
		}
	}
}

func openFile(path, dir string, o Options) (*Journal, error) {
	flags := os.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if !o.Existing {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	j := &Journal{file: f, role: o.Role, mig: o.Mig}
	if err := j.open(dir, o); err != nil {
		f.Close()
		if errors.Is(err, ErrBusy) && !errors.Is(err, errRemoved) {
			if pid := lockfile.Holder(path); pid != 0 {
				err = fmt.Errorf("%w: %w", err, &lockfile.HeldError{Path: path, PID: pid})
			}
		}
		return nil, &fs.PathError{Op: "open journal", Path: path, Err: err}
	}
	return j, nil
}

func (j *Journal) open(dir string, o Options) error {
	fd := int(j.file.Fd())
	if err := lock(fd); err != nil {
		return err
	}
	var r reader
	err := r.read(fd)
	if err == nil {
		err = safefile.CheckOwner(&r.stat)
	}
	if err != nil {
		return err
	}
	all := r.records()
	switch {
	case len(all) > 0:
		err = j.again(all)
	case o.Existing:
		return fs.ErrNotExist
	default:
		all, err = j.begin()
	}
	if err != nil {
		return err
	}
	j.all, j.id, j.slots = all, all[0].Journal, max(uint64(len(r.text))/recordLen, uint64(len(all)))
	return safefile.SyncDir(dir)
}

// again takes over what another process has written. It may have died before the
// last record was on the disk, or have been told that it is not: it is written once
// more.
func (j *Journal) again(all []Record) error {
	if err := belongs(all[0], j.role, j.mig); err != nil {
		return err
	}
	return j.write(all[len(all)-1])
}

// belongs finds a record in a file of another name than its own.
func belongs(r Record, role Role, mig migration.ID) error {
	if r.Role != role || r.Attempt.Mig != mig {
		return fmt.Errorf("%w: it is the %v's of migration %v", ErrDamaged, r.Role, r.Attempt.Mig)
	}
	return nil
}

// errRemoved says that the file has no name any more, or that the process that has its lock
// has not written the first record, and so may be about to remove the file.
var errRemoved = fmt.Errorf("%w, which has written no record", ErrBusy)

// lock takes the file for this process alone. The lock ends with the process (flock(2)).
func lock(fd int) error {
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	var here unix.Stat_t
	if stat := unix.Fstat(fd, &here); stat != nil {
		return stat
	}
	switch {
	case err == nil && here.Nlink == 0, errors.Is(err, unix.EWOULDBLOCK) && here.Size < recordLen:
		return errRemoved
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrBusy
	case err != nil:
		return fmt.Errorf("flock: %w", err)
	}
	return nil
}

// begin writes the first record of a new file: its id, with no attempt open.
func (j *Journal) begin() ([]Record, error) {
	first := Record{Seq: 1, Role: j.role, Time: time.Now(), Boot: thisBoot(), Entry: handoff.Entry{
		Record: idle(j.role), Attempt: migration.Attempt{Mig: j.mig}, Journal: migration.NewJournalID()}}
	return []Record{first}, j.write(first)
}

// idle is the record of a side that has no attempt open.
func idle(r Role) handoff.Record {
	if r == Source {
		return handoff.Owner
	}
	return handoff.None
}

// reserve fills slots with zeros, so that an attempt's records need no more room.
func (j *Journal) reserve() error {
	used := uint64(len(j.all))
	if j.slots >= used+ahead {
		return nil
	}
	if used+ahead > maxSlots {
		return fmt.Errorf("%d records, limit %d: begin a new migration", used, maxSlots)
	}
	if _, err := j.file.WriteAt(make([]byte, (used+ahead-j.slots)*recordLen), int64(j.slots*recordLen)); err != nil {
		return fmt.Errorf("reserve room for records: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("reserve room for records: %w", err)
	}
	j.slots = used + ahead
	return nil
}

// ID is the random name that the file got when it was made.
func (j *Journal) ID() migration.JournalID { return j.id }

// Last is the newest entry.
func (j *Journal) Last() handoff.Entry { return j.all[len(j.all)-1].Entry }

// Since is when the newest entry was written, by the wall clock.
func (j *Journal) Since() time.Time { return j.all[len(j.all)-1].Time }

// Append writes an entry, and returns when it would survive a crash. After an
// error nobody knows whether it does, and nothing more is written: a failed sync
// must not be tried again, since the kernel may have dropped what it could not
// write (fsync(2)).
func (j *Journal) Append(e handoff.Entry) error {
	if j.err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, j.err)
	}
	if e.Attempt.Mig != j.mig {
		return fmt.Errorf("a record of migration %v for the journal of %v", e.Attempt.Mig, j.mig)
	}
	r := Record{Entry: e, Seq: uint64(len(j.all)) + 1, Role: j.role, Time: time.Now(), Boot: thisBoot()}
	r.Journal = j.id
	err := j.reserveFor(e.Attempt)
	if err == nil {
		err = j.write(r)
	}
	if err != nil {
		j.err = err
		return err
	}
	j.all = append(j.all, r)
	return nil
}

// reserveFor makes room when an attempt begins: that is the moment at which a full disk
// is worth no more than an error. Later it makes room only for an attempt whose devices
// were taken back more often than that room was for.
func (j *Journal) reserveFor(a migration.Attempt) error {
	if a != j.Last().Attempt || uint64(len(j.all)) == j.slots { // OPEN, or the ABORTED of one that is refused at once
		return j.reserve()
	}
	return nil
}

func (j *Journal) write(r Record) error {
	began := time.Now()
	if _, err := j.file.WriteAt(r.encode(), int64(r.Seq-1)*recordLen); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: j.file.Name(), Err: err}
	}
	if took := time.Since(began); j.took == 0 || took < j.took {
		j.took = took
	}
	return nil
}

// WriteTook is the shortest time that this process has measured from the write of a record
// until the disk had it. The room for records is made before, so that every record takes
// about as long; one that met another program's writes says nothing of the next.
func (j *Journal) WriteTook() time.Duration { return j.took }

// Close lets go of the file.
func (j *Journal) Close() error {
	if j.err == nil {
		j.err = os.ErrClosed
	}
	return j.file.Close()
}
