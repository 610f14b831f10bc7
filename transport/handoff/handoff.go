// Package handoff decides who owns the devices of a migration, and when.
//
// Ownership is a token that is handed over: the source records COMMIT and so
// gives up its right to resume; the destination records ACCEPT and so takes it.
// The destination's ACCEPT is the point of no return. After COMMIT the source
// never decides alone: it may resume only when the destination has recorded
// that it will never run this attempt.
//
// [Source] and [Dest] are pure state machines: a value and an event give a new
// value and the actions to take, in order. They do no I/O, have no clock and
// start nothing, so that a test can explore every interleaving of both against
// a network that loses, repeats and reorders. PROTOCOL.md has the diagrams.
package handoff

import (
	"io/fs"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Record is what a side has written down about an attempt: what it may do
// after it has forgotten everything else.
type Record uint8

// Records of the source: Owner, Open, Commit, Done, ResumeFailed. Records of the
// destination: None, Open, Ready, Accept, Running, Aborted, Done, Lost. Forced is of
// either.
const (
	None    Record = iota // the destination never heard of the attempt
	Owner                 // the source owns its devices, no attempt is open
	Open                  // an attempt is open; the source still owns the devices
	Ready                 // the destination holds a complete, verified copy
	Commit                // the source has given up its right to resume
	Accept                // the destination owns the devices
	Aborted               // this attempt will never run at the destination
	Done                  // the source knows that the destination runs
	Lost                  // the destination had accepted, and its devices are gone
	Forced                // somebody has decided that the devices are this side's, see Force
	Running               // the destination's devices have run: who lost them since, had them

	// ResumeFailed is a source's whose way back failed after its last END. It is written
	// only where it is known that no device of the set has been in RUNNING since.
	ResumeFailed
)

// String is the record's name in PROTOCOL.md.
func (r Record) String() string {
	return [...]string{"NONE", "OWNER", "OPEN", "READY", "COMMIT", "ACCEPT", "ABORTED", "DONE", "LOST", "FORCED", "RUNNING", "RESUME_FAILED"}[r]
}

// Entry is one line of a journal.
type Entry struct {
	Record      Record
	Attempt     migration.Attempt
	Journal     migration.JournalID // of the side that writes
	PeerJournal migration.JournalID // of the other side, once known
	Digest      migration.StreamDigest
	PeerID      transport.PeerID // who the other side is, zero where the carrier does not know
	Witness     Register         // that the attempt is decided by, after COMMIT
	// Sole says, at the source, that the destination's copy may be the only one that
	// works: the way back is not over, or it has failed.
	Sole bool

	Why Why // for people: nothing is decided by it
}

// Unfinished reports whether the source whose newest entry this is still has to take the
// devices of the attempt back.
func (e Entry) Unfinished() bool {
	return e.Record == Open || e.Record == ResumeFailed || e.Record == Owner && e.Sole
}

// Why is what the engine adds to an entry.
type Why struct {
	Bytes uint64 // of all streams so far
	Code  transport.Code
	Text  string // the fault, if there was one
}

// Journal keeps the entries of one side of one migration. Append returns only when
// the entry would survive; the message that announces it is sent after that. Last
// is the newest entry, the zero Entry if there is none.
type Journal interface {
	ID() migration.JournalID
	Append(Entry) error
	Last() Entry
}

// Lasting is a Journal that outlives its process: another one can open it, and go on
// with what it says.
type Lasting interface {
	Journal
	// Rebooted says that the host was started again since the newest entry was written:
	// what devices held then is gone, whatever state they are in.
	Rebooted() bool
}

// Rebooted says that of a journal that knows it.
func Rebooted(j Journal) bool {
	lasting, ok := j.(Lasting)
	return ok && lasting.Rebooted()
}

// Journals opens the journal of a migration, for a side that does not know from
// the beginning which one it will be of. With existing it makes none: the error of
// one that is not there is fs.ErrNotExist.
type Journals func(mig migration.ID, existing bool) (Journal, error)

// InMemory makes journals that live as long as the process, each for itself.
func InMemory(_ migration.ID, existing bool) (Journal, error) {
	if existing {
		return nil, fs.ErrNotExist
	}
	return NewMemory(), nil
}

// Memory is a journal that lives as long as the process.
type Memory struct {
	id      migration.JournalID
	entries []Entry
}

// NewMemory starts an empty journal.
func NewMemory() *Memory { return &Memory{id: migration.NewJournalID()} }

// ID names the journal.
func (m *Memory) ID() migration.JournalID { return m.id }

// Append keeps the entry.
func (m *Memory) Append(e Entry) error {
	m.entries = append(m.entries, e)
	return nil
}

// Last is the newest entry.
func (m *Memory) Last() (last Entry) {
	if n := len(m.entries); n > 0 {
		last = m.entries[n-1]
	}
	return last
}

// Entries returns a copy of what was appended.
func (m *Memory) Entries() []Entry { return append([]Entry(nil), m.entries...) }
