// Package journal records the decisions of one side of a migration on disk, so that they
// outlive a crash: one append-only file for each migration and side.
//
// The file is a row of slots of one length. The first slot has the id by which the peer knows
// the file. A slot is written once, with one pwrite and one fdatasync, before the message that
// announces the decision is sent. When an attempt begins, the slots that it needs are filled
// with zeros: a full disk then fails the attempt at its beginning, and not at COMMIT. (A file
// system that never writes in place can fail later, too.) A record that a crash has torn was
// never announced: the last whole record counts.
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
	// ErrBusy is the error for a journal that another process has open. That process works on
	// the migration, or is about to.
	ErrBusy = errors.New("the journal is in use by another process")
	// ErrVolatile is the error for a directory whose files do not outlive the host, or may not.
	ErrVolatile = errors.New("the file system loses its files when the host restarts")
	// ErrDamaged is the error for a file that is no journal, or not the one that it is named
	// after.
	ErrDamaged = errors.New("damaged journal")
	// ErrClosed is the error of an Append after a failed write, or after Close. Open reads
	// what the file holds.
	ErrClosed = errors.New("the journal takes no more records")
)

// ahead is how many slots are reserved: more than an attempt needs.
const ahead = 16

// maxSlots bounds a file: some hundred attempts.
const maxSlots = 4096

// Options say which journal is opened, and how.
type Options struct {
	Role Role
	Mig  migration.ID
	// Volatile allows a file system whose files do not outlive the host, for hosts that have
	// no other. A crash of the host then loses the journal.
	Volatile bool
	// Existing opens a journal that exists, and makes none.
	Existing bool
	// Devices are recorded with the OPEN of every attempt, unless they are recorded already.
	// A later process finds its migration by them. None records none.
	Devices []Device
}

var _ handoff.Lasting = (*Journal)(nil)

// Journal is an open journal. It holds a lock that keeps other processes from opening it. It
// implements handoff.Lasting.
type Journal struct {
	file     *os.File
	role     Role
	mig      migration.ID
	id       migration.JournalID
	all      []Record
	devices  []byte        // the list of Options, encoded
	recorded []byte        // the newest list in the file
	used     uint64        // slots that were written
	slots    uint64        // slots that are ready to be written, and those that were
	err      error         // why nothing more is appended
	took     time.Duration // the shortest write so far
}

// Name is the name of a journal's file.
func Name(role Role, mig migration.ID) string { return mig.String() + "." + role.String() }

// removal bounds the wait of Open for a process that removes an empty file.
const removal = time.Second

// Open opens the journal of one side of a migration in a directory, or makes it. Its records
// are durable when Open returns, even if the last writer was killed before it synced them.
//
// A file that another process removes meanwhile is made again. With Options.Existing, the
// error for a missing or empty file is fs.ErrNotExist.
func Open(dir string, o Options) (*Journal, error) {
	if err := Check(dir, o.Volatile); err != nil {
		return nil, err
	}
	if _, err := encodeDevices(o.Devices); err != nil {
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
	j.all, j.id, j.used = all, all[0].Journal, max(uint64(r.used), 1)
	j.slots = max(uint64(len(r.text))/recordLen, j.used)
	j.recorded = r.deviceBytes()
	if j.devices, _ = encodeDevices(o.Devices); j.devices == nil { // Open has checked them
		j.devices = j.recorded
	}
	return safefile.SyncDir(dir)
}

// again takes over what another process has written. That process may have died before the
// disk had the last record, or after a failed sync: the record is written once more.
func (j *Journal) again(all []Record) error {
	if err := belongs(all[0], j.role, j.mig); err != nil {
		return err
	}
	return j.write(all[len(all)-1])
}

// belongs refuses a file whose name is that of another journal.
func belongs(r Record, role Role, mig migration.ID) error {
	if r.Role != role || r.Attempt.Mig != mig {
		return fmt.Errorf("%w: it is the %v's of migration %v", ErrDamaged, r.Role, r.Attempt.Mig)
	}
	return nil
}

// errRemoved is the error for a file that has no name any more, or that may be about to lose
// it: the process that has its lock has not written the first record.
var errRemoved = fmt.Errorf("%w, which has written no record", ErrBusy)

// lock keeps other processes from opening the journal. It ends with the process (flock(2)).
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

// begin writes the first record of a new file: the id of the file, and that no attempt is open.
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

// reserve fills slots with zeros, so that an attempt's records and its list of devices need
// no more room.
func (j *Journal) reserve() error {
	need := j.used + devicesSlots(j.devices) + ahead
	if j.slots >= need {
		return nil
	}
	if need > maxSlots {
		return fmt.Errorf("%d records, limit %d: begin a new migration", j.used, maxSlots)
	}
	if _, err := j.file.WriteAt(make([]byte, (need-j.slots)*recordLen), int64(j.slots*recordLen)); err != nil {
		return fmt.Errorf("reserve room for records: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("reserve room for records: %w", err)
	}
	j.slots = need
	return nil
}

// ID is the random id that the file was given when it was made.
func (j *Journal) ID() migration.JournalID { return j.id }

// Last is the newest entry.
func (j *Journal) Last() handoff.Entry { return j.all[len(j.all)-1].Entry }

// Since is when the newest entry was written, by the wall clock.
func (j *Journal) Since() time.Time { return j.all[len(j.all)-1].Time }

// Append writes an entry, and returns when the entry would survive a crash. After an error it
// is not known whether it would, and every later Append fails with ErrClosed: a failed sync
// must not be repeated, since the kernel may have dropped the data (fsync(2)).
func (j *Journal) Append(e handoff.Entry) error {
	if j.err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, j.err)
	}
	if e.Attempt.Mig != j.mig {
		return fmt.Errorf("a record of migration %v for the journal of %v", e.Attempt.Mig, j.mig)
	}
	err := j.reserveFor(e.Attempt)
	if err == nil && e.Record == handoff.Open {
		err = j.writeDevices(e.Attempt)
	}
	r := Record{Entry: e, Seq: j.used + 1, Role: j.role, Time: time.Now(), Boot: thisBoot()}
	r.Journal = j.id
	if err == nil {
		err = j.write(r)
	}
	if err != nil {
		j.err = err
		return err
	}
	j.used++
	j.all = append(j.all, r)
	return nil
}

// reserveFor makes room when an attempt begins: a full disk then costs no more than an error.
// Later it makes room only if the devices of one attempt were resumed so often that the room
// is used up.
func (j *Journal) reserveFor(a migration.Attempt) error {
	if a != j.Last().Attempt || j.used == j.slots { // OPEN, or the ABORTED of one that is refused at once
		return j.reserve()
	}
	return nil
}

// writeSlot returns when the slot would survive a crash.
func (j *Journal) writeSlot(seq uint64, b []byte) error {
	if _, err := j.file.WriteAt(b, int64(seq-1)*recordLen); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: j.file.Name(), Err: err}
	}
	return nil
}

func (j *Journal) write(r Record) error {
	began := time.Now()
	if err := j.writeSlot(r.Seq, r.encode()); err != nil {
		return err
	}
	if took := time.Since(began); j.took == 0 || took < j.took {
		j.took = took
	}
	return nil
}

// WriteTook is the shortest time that this process has measured from the write of a record
// until the disk had it. All records take about as long, since their room is reserved. A
// longer time is due to the writes of other programs.
func (j *Journal) WriteTook() time.Duration { return j.took }

// Close closes the file, and so releases the lock.
func (j *Journal) Close() error {
	if j.err == nil {
		j.err = os.ErrClosed
	}
	return j.file.Close()
}
