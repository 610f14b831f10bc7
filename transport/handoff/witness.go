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

// String is the name of the side, for witnesses and for people.
func (s Side) String() string { return [...]string{"nobody", "source", "destination"}[s] }

// Register is a short digest of the name of a witness, 0 for none. It is no secret and no proof.
// It finds two sides, or two runs of one side, with different witnesses, which could decide for
// different sides.
type Register uint16

// RegisterOf is the Register of the witness of that name, 0 for no name.
func RegisterOf(name string) Register {
	if name == "" {
		return 0
	}
	return Register(crc32.ChecksumIEEE([]byte(name))>>16) | 1
}

// Force is the entry for the decision of a person that the devices of a migration are those of
// this side, whose newest entry is last. It is allowed in doubt only: after COMMIT, and after
// READY, LOST and ACCEPT, on which a restarted host does not act by itself. Its epoch is one
// higher, so that every later message of the other side is about an older attempt.
//
// The person vouches that the other side is dead, or fenced from its devices: no machine can
// know that.
func Force(last Entry, text string) (Entry, bool) {
	switch last.Record {
	case Commit, Ready, Accept, Lost:
		last.Record, last.Why.Text, last.Why.Code = Forced, text, 0
		last.Attempt.Epoch++
		return last, true
	}
	return last, false
}

// GiveUp is the entry for the decision of a person that the devices of a migration never run at
// this destination, even if they were accepted. The source, which still has them, receives
// DECLINED when it asks. The person vouches that nothing runs here, and that this is not the
// last copy.
func GiveUp(last Entry, text string) (Entry, bool) {
	switch last.Record {
	case Ready, Accept, Lost, Forced:
		last.Record, last.Why.Text, last.Why.Code = Aborted, text, transport.CodeCancelled
		return last, true
	}
	return last, false
}

// overruled reports whether a STATUS leaves the decision to people: a person has taken the
// devices for the destination, or the destination has lost what it accepted.
func (s Source) overruled(m *wire.Status) bool {
	if m.Journal != s.PeerJournal {
		return false
	}
	return m.Record == Forced.String() && m.MaxEpoch > s.Attempt.Epoch || m.Record == Lost.String() && m.MaxEpoch == s.Attempt.Epoch
}

// onOverdue asks the witness, unless it is being asked, has answered, or the source has nothing to
// resume.
func (s Source) onOverdue() (Source, []SourceAction) {
	if s.Witness == 0 || s.Asking || s.Lost || s.Empty {
		return s, nil
	}
	s.Asking = true
	return s, []SourceAction{AskWitness{}}
}

// onWitnessed begins the way back if the source has the register. The destination may not know
// that, hence ABORT. If the destination has the register, it may have accepted, and only its
// answer counts.
func (s Source) onWitnessed(winner Side) (Source, []SourceAction) {
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
		return s.endInDoubt()
	}
	return s, nil
}

// stopWaiting ends the wait for the destination's answer. It asks the witness once more before.
func (s Source) stopWaiting() (Source, []SourceAction) {
	s.Leaving = true
	s, actions := s.onOverdue()
	if s.Asking {
		return s, actions
	}
	return s.endInDoubt()
}

// endInDoubt ends the process in doubt.
func (s Source) endInDoubt() (Source, []SourceAction) { return s.finish(migration.InDoubt) }

// accept accepts the devices, or asks the witness first.
func (d Dest) accept() (Dest, []DestAction) {
	if d.Witness == 0 {
		return d.recordAccept()
	}
	if d.Asking {
		return d, nil
	}
	d.Asking = true
	return d, []DestAction{AskWitness{}}
}

// recordAccept is the one place where the destination passes the point of no return.
func (d Dest) recordAccept() (Dest, []DestAction) {
	d.Phase, d.Asking = DestStarting, false
	d, rec := d.record(Accept)
	return d, []DestAction{rec, Start{}}
}

// onWitnessed continues with a COMMIT that waited for the register.
func (d Dest) onWitnessed(winner Side) (Dest, []DestAction) {
	switch {
	case !d.Asking:
		return d, nil
	case winner == DestSide:
		return d.recordAccept()
	case winner == SourceSide:
		return d.decline(transport.CodeCancelled, "", 0, "the witness gave the devices back to the source")
	}
	return d, []DestAction{AskWitness{}} // COMMIT stays valid
}

// forced answers a source whose attempt a person has overruled here. DECLINED would let the
// source run as well: the answer is RUNNING, or the record.
func (d Dest) forced(a migration.Attempt) wire.Message {
	if d.StartNS > 0 {
		return &wire.Running{Attempt: a, Journal: d.Journal, StartNS: d.StartNS}
	}
	return d.status(a)
}

func (d Dest) status(a migration.Attempt) wire.Message {
	return &wire.Status{Attempt: a, Journal: d.Journal, Record: d.Record.String(), MaxEpoch: d.MaxEpoch, Digest: d.Digest, Text: d.Note}
}
