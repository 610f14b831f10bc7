package handoff

import (
	"hash/crc32"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Side is one of the two sides of a migration.
type Side uint8

// The sides.
const (
	SourceSide Side = 1
	DestSide   Side = 2
)

// String is the side as witnesses and people spell it.
func (s Side) String() string { return [...]string{"nobody", "source", "destination"}[s] }

// Register tells one witness from another in a record, 0 is none. It is no secret
// and no proof: it finds two sides, or two runs of one, that were told of different
// witnesses, of which each could give the devices to somebody else.
type Register uint16

// RegisterOf is the Register of the witness of that name, 0 for no name.
func RegisterOf(name string) Register {
	if name == "" {
		return 0
	}
	return Register(crc32.ChecksumIEEE([]byte(name))>>16) | 1
}

// Force is the record by which somebody, and not the other side, has decided that
// the devices of a migration are those of the side whose journal ends with last. It
// may be written in doubt only: from COMMIT, and from READY, LOST and ACCEPT, which a
// host that was restarted does not act on by itself. Its epoch is
// one more, so that whatever the other side still says is of an older attempt.
//
// That the other side is dead, or kept from its devices, is what that somebody
// vouches for: nothing here can know it.
func Force(last Entry, text string) (Entry, bool) {
	switch last.Record {
	case Commit, Ready, Accept, Lost:
		last.Record, last.Why.Text, last.Why.Code = Forced, text, 0
		last.Attempt.Epoch++
		return last, true
	}
	return last, false
}

// GiveUp is the record by which somebody has decided that the devices of a migration never
// run at this destination, whatever was accepted: the source, which still has them, is told
// DECLINED when it asks. That nothing runs here, and that this is not the last copy, is what
// that somebody vouches for.
func GiveUp(last Entry, text string) (Entry, bool) {
	switch last.Record {
	case Ready, Accept, Lost, Forced:
		last.Record, last.Why.Text, last.Why.Code = Aborted, text, transport.CodeCancelled
		return last, true
	}
	return last, false
}

// overruled says whether a STATUS leaves the answer to people: it has the word of one at
// the other side, who has taken the devices there, or what was accepted there is gone.
func (s Source) overruled(m *wire.Status) bool {
	if m.Journal != s.PeerJournal {
		return false
	}
	return m.Record == Forced.String() && m.MaxEpoch > s.Attempt.Epoch || m.Record == Lost.String() && m.MaxEpoch == s.Attempt.Epoch
}

// overdue asks the witness, unless it is being asked or has answered, or there is
// nothing to be won.
func (s Source) overdue() (Source, []SourceAction) {
	if s.Witness == 0 || s.Asking || s.Lost || s.Empty {
		return s, nil
	}
	s.Asking = true
	return s, []SourceAction{AskWitness{}}
}

// witnessed takes the devices back if the register says so. Where it does not, the
// destination may have accepted: only it can say. The destination can not have
// heard, hence ABORT.
func (s Source) witnessed(winner Side) (Source, []SourceAction) {
	if !s.Asking {
		return s, nil
	}
	s.Asking = false
	switch {
	case winner == SourceSide:
		return s.rollback(Failed{Code: transport.CodeTimeout, Text: "the witness gave the devices back to the source"})
	case winner == DestSide:
		s.Lost = true
	}
	if s.Leaving {
		return s.end()
	}
	return s, nil
}

// leave ends the wait for the destination's answer. The witness is asked once more
// before.
func (s Source) leave() (Source, []SourceAction) {
	s.Leaving = true
	s, actions := s.overdue()
	if s.Asking {
		return s, actions
	}
	return s.end()
}

// end leaves the doubt to others.
func (s Source) end() (Source, []SourceAction) { return s.finish(migration.InDoubt) }

// accept takes the devices over, or asks the witness whether it may.
func (d Dest) accept() (Dest, []DestAction) {
	if d.Witness == 0 {
		return d.accepted()
	}
	if d.Asking {
		return d, nil
	}
	d.Asking = true
	return d, []DestAction{AskWitness{}}
}

// accepted records the point of no return.
func (d Dest) accepted() (Dest, []DestAction) {
	d.Phase, d.Asking = DestStarting, false
	d, rec := d.record(Accept)
	return d, []DestAction{rec, Start{}}
}

// witnessed goes on with a COMMIT that waited for the register.
func (d Dest) witnessed(winner Side) (Dest, []DestAction) {
	switch {
	case !d.Asking:
		return d, nil
	case winner == DestSide:
		return d.accepted()
	case winner == SourceSide:
		return d.decline(transport.CodeCancelled, "", 0, "the witness gave the devices back to the source")
	}
	return d, []DestAction{AskWitness{}} // COMMIT was said and stands
}

// forced answers a source whose attempt somebody has overruled here: DECLINED would
// let it run as well. What runs is said, and else what is recorded.
func (d Dest) forced(a migration.Attempt) wire.Message {
	if d.StartNS > 0 {
		return &wire.Running{Attempt: a, Journal: d.Journal, StartNS: d.StartNS}
	}
	return d.status(a)
}

func (d Dest) status(a migration.Attempt) wire.Message {
	return &wire.Status{Attempt: a, Journal: d.Journal, Record: d.Record.String(), MaxEpoch: d.MaxEpoch, Digest: d.Digest, Text: d.Note}
}
