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
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
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
	Mig  transport.MigID
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
	mig   transport.MigID
	id    transport.JournalID
	all   []Record
	slots uint64        // that are ready to be written, in all
	err   error         // why nothing more is appended
	took  time.Duration // of the last write
}

// Name is the name of a journal's file.
func Name(role Role, mig transport.MigID) string { return mig.String() + "." + role.String() }

// Open opens the journal of one side of a migration in a folder, or makes it. What
// it says is durable when Open returns, whatever the last writer came to.
func Open(dir string, o Options) (*Journal, error) {
	if err := Check(dir, o.Volatile); err != nil {
		return nil, err
	}
	path, flags := filepath.Join(dir, Name(o.Role, o.Mig)), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK
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
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return j, nil
}

func (j *Journal) open(dir string, o Options) error {
	if err := lock(j.file); err != nil {
		return err
	}
	all, size, err := read(j.file)
	if err != nil {
		return err
	}
	switch {
	case len(all) > 0:
		err = j.again(all)
	case size > recordLen || o.Existing: // a crash leaves less of the first record
		return fmt.Errorf("%w: %d bytes without a first record", ErrDamaged, size)
	default:
		all, err = j.begin()
	}
	if err != nil {
		return err
	}
	j.all, j.id, j.slots = all, all[0].Journal, max(uint64(size)/recordLen, uint64(len(all)))
	return syncDir(dir)
}

// again takes over what another process has written. It may have died before the
// last record was on the disk, or have been told that it is not: it is written once
// more.
func (j *Journal) again(all []Record) error {
	if first := all[0]; first.Role != j.role || first.Attempt.Mig != j.mig {
		return fmt.Errorf("%w: it is the %v's of migration %v", ErrDamaged, first.Role, first.Attempt.Mig)
	}
	return j.write(all[len(all)-1])
}

// lock takes the file for this process alone. A file that was removed in between
// is nobody's.
func lock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	} else if err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	var here unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &here); err != nil {
		return err
	}
	if here.Nlink == 0 {
		return ErrBusy
	}
	return nil
}

// begin writes the first record of a new file: its id, with no attempt open.
func (j *Journal) begin() ([]Record, error) {
	first := Record{Seq: 1, Role: j.role, Time: time.Now(), Boot: thisBoot(), Entry: handoff.Entry{
		Record: idle(j.role), Attempt: transport.Attempt{Mig: j.mig}, Journal: transport.NewJournalID()}}
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
func (j *Journal) ID() transport.JournalID { return j.id }

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

// reserveFor makes room when an attempt begins, and at no other time: those are
// the moments at which a full disk is worth no more than an error.
func (j *Journal) reserveFor(a transport.Attempt) error {
	if a != j.Last().Attempt { // OPEN, or the ABORTED of one that is refused at once
		return j.reserve()
	}
	if uint64(len(j.all)) == j.slots {
		return fmt.Errorf("no room for a further record of attempt %d", a.Epoch)
	}
	return nil
}

func (j *Journal) write(r Record) error {
	began := time.Now()
	if _, err := j.file.WriteAt(r.encode(), int64(r.Seq-1)*recordLen); err != nil {
		return err
	}
	err := unix.Fdatasync(int(j.file.Fd()))
	j.took = time.Since(began)
	return err
}

// WriteTook is how long the write of the newest record took, until it was on the disk.
// The room for records is made before, so that every record takes about as long.
func (j *Journal) WriteTook() time.Duration { return j.took }

// Close lets go of the file.
func (j *Journal) Close() error {
	if j.err == nil {
		j.err = os.ErrClosed
	}
	return j.file.Close()
}

// read gives the whole records of a file, in order. It ends at the first slot that
// is none: nothing was written behind it.
func read(f *os.File) (all []Record, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if size = info.Size(); !info.Mode().IsRegular() || size > maxSlots*recordLen {
		return nil, 0, fmt.Errorf("%w: a file of %d bytes, %v", ErrDamaged, size, info.Mode())
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, 0, err
	}
	all, err = parse(b)
	if err == nil && len(all) > 1 && size < ahead*recordLen {
		err = fmt.Errorf("%w: it was cut to %d bytes", ErrDamaged, size) // the first attempt's room was there before its first record
	}
	return all, size, err
}

// parse reads records until one is not whole. A crash can tear the one that was
// being written; behind that nothing was. Anything else is the work of a disk that
// forgets, or of another program.
func parse(b []byte) (all []Record, err error) {
	for ; len(b) >= recordLen; b = b[recordLen:] {
		r, err := decode(b)
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
	if len(b) > recordLen && len(bytes.Trim(b[recordLen:], "\x00")) > 0 {
		return all, fmt.Errorf("%w: there is something behind record %d, which is not whole", ErrDamaged, len(all)+1)
	}
	return all, nil
}

// follows reports whether a record is of the same file as its first.
func follows(first, r Record) bool {
	return r.Role == first.Role && r.Journal == first.Journal && r.Attempt.Mig == first.Attempt.Mig
}

// Read gives the records of a journal, for people: nothing is locked, and who has
// it open may write on.
func Read(path string) ([]Record, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, _, err := read(f)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%w: it has no record", ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

// List gives the paths of a folder's journals of one role, in order of their names.
func List(dir string, role Role) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "."+role.String()) {
			paths = append(paths, filepath.Join(dir, f.Name()))
		}
	}
	return paths, nil
}
