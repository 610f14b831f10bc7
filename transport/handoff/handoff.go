// Package handoff decides who owns the devices of a migration, and when.
//
// Ownership is a token. The source records COMMIT, and so loses the right to resume its
// devices. The destination records ACCEPT, and so gets the right to run them: that record is
// the point of no return. After COMMIT the source never decides alone. It may resume only when
// the destination has recorded that it will never run this attempt.
//
// [Source] and [Dest] are pure state machines: a value and an event give a new value and the
// actions to take, in order. They do no I/O, have no clock and start nothing. So a test can
// explore every interleaving of both against a network that loses, repeats and reorders.
// PROTOCOL.md has the diagrams.
package handoff

import (
	"io/fs"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Record is the state of an attempt that a side has recorded. It alone says what the side may
// do after a crash.
type Record uint8

// Records of the source: Owner, Open, Commit, Done, ResumeFailed. Records of the
// destination: None, Open, Ready, Accept, Running, Aborted, Done, Lost. Forced is of
// either.
const (
	None    Record = iota // the destination does not know the attempt
	Owner                 // the source owns its devices, no attempt is open
	Open                  // an attempt is open; the source still owns the devices
	Ready                 // the destination holds a complete, verified copy
	Commit                // the source has no right to resume any more
	Accept                // the destination owns the devices
	Aborted               // this attempt will never run at the destination
	Done                  // the source knows that the destination runs
	Lost                  // the destination had accepted, and its devices are gone
	Forced                // a person has decided that the devices are this side's, see Force
	Running               // the destination's devices have run, even if they are gone since

	// ResumeFailed means that the way back of the source failed after its last END. The source
	// records it only if it knows that no device of the set has been in RUNNING since.
	ResumeFailed
)

// String is the record's name in PROTOCOL.md.
func (r Record) String() string {
	return [...]string{"NONE", "OWNER", "OPEN", "READY", "COMMIT", "ACCEPT", "ABORTED", "DONE", "LOST", "FORCED", "RUNNING", "RESUME_FAILED"}[r]
}

// Entry is one record of a journal, with its facts.
type Entry struct {
	Record      Record
	Attempt     migration.Attempt
	Journal     migration.JournalID // of the side that records
	PeerJournal migration.JournalID // of the other side, once known
	Digest      migration.StreamDigest
	PeerID      transport.PeerID // of the other side, zero where the carrier has no identities
	Witness     Register         // of the witness that decides the attempt after COMMIT, 0 for none
	// Sole means, at the source, that the destination's copy may be the only one that works:
	// the way back is not over, or it has failed.
	Sole bool

	Why Why // for people: no machine decides by it
}

// Unfinished reports whether a source with this newest entry still has to resume the devices of
// the attempt.
func (e Entry) Unfinished() bool {
	return e.Record == Open || e.Record == ResumeFailed || e.Record == Owner && e.Sole
}

// Why is what the engine adds to an entry, for people.
type Why struct {
	Bytes uint64 // of all streams so far
	Code  transport.Code
	Text  string // the fault, if there was one
}

// Journal stores the entries of one side of one migration. Append returns when the entry would
// survive a crash; only then does the engine send the message that announces it. Last is the
// newest entry, the zero Entry if there is none.
type Journal interface {
	ID() migration.JournalID
	Append(Entry) error
	Last() Entry
}

// Lasting is a Journal that outlives its process: a later process can open it, and continue.
type Lasting interface {
	Journal
	// Rebooted reports whether the host was restarted since the newest entry was written. The
	// devices have lost what they held then, in any state that they are in now.
	Rebooted() bool
}

// Rebooted is that of a Lasting journal, and false for any other.
func Rebooted(j Journal) bool {
	lasting, ok := j.(Lasting)
	return ok && lasting.Rebooted()
}

// Journals opens the journal of a migration, for a side that learns the migration from its
// peer. With existing it makes none: the error for a missing journal is fs.ErrNotExist.
type Journals func(mig migration.ID, existing bool) (Journal, error)

// InMemory is a [Journals] of journals in memory, which end with the process.
func InMemory(_ migration.ID, existing bool) (Journal, error) {
	if existing {
		return nil, fs.ErrNotExist
	}
	return NewMemory(), nil
}

// Memory is a journal in memory, which ends with the process.
type Memory struct {
	id      migration.JournalID
	entries []Entry
}

// NewMemory starts an empty journal.
func NewMemory() *Memory { return &Memory{id: migration.NewJournalID()} }

// ID names the journal.
func (m *Memory) ID() migration.JournalID { return m.id }

// Append stores the entry.
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

// Entries returns a copy of all entries.
func (m *Memory) Entries() []Entry { return append([]Entry(nil), m.entries...) }
