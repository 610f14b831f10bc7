package handoff

import (
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// RestartSource goes on where the process ended that wrote last, the newest entry
// of the journal: the idempotent action is done again, and in doubt the destination
// is asked.
func RestartSource(last Entry) (Source, []SourceAction) {
	s := Source{Attempt: last.Attempt, Journal: last.Journal, PeerJournal: last.PeerJournal, Digest: last.Digest, Record: last.Record, Witness: last.Witness}
	switch {
	case last.Record == Commit:
		s.Phase, s.Empty = SourceDoubt, last.Sole
		return s, []SourceAction{Send{s.demand()}}
	case last.Record == Done:
		s.Phase = SourceEnded
		return s, []SourceAction{Send{&wire.Fin{Attempt: s.Attempt}}, Release{}, Finish{migration.Committed}}
	case last.Record == Forced:
		s.Phase, s.Reverted = SourceResuming, true
		s.Because = Failed{Code: transport.CodeCancelled, Text: last.Why.Text}
		return s, []SourceAction{Resume{s.Reverted}}
	case last.Unfinished(): // the last END may have been sent
		s.Phase, s.Sole, s.Torn = SourceHalting, true, last.Record == Owner
		return s, []SourceAction{Halt{}}
	}
	return s.takeBack(Failed{})
}

// CommitThere is the record by which a person has decided that the destination runs the
// copy that it holds of an attempt whose devices cannot be resumed at the source, whose
// journal ends with last. It may be written only where no device of the set has been in
// RUNNING since the last END: the record is OPEN or RESUME_FAILED. OWNER says that some
// may have been. The devices are not asked back after it.
//
// The destination's journal and digest are zero if the source has not heard them: they are
// asked for before COMMIT is sent.
func CommitThere(last Entry, text string) (Entry, bool) {
	if last.Record != Open && last.Record != ResumeFailed {
		return last, false
	}
	last.Record, last.Sole, last.Why.Text, last.Why.Code = Commit, true, text, 0
	return last, true
}

// Holding is what a destination that was started again finds in its devices.
type Holding uint8

// What devices hold.
const (
	Nothing   Holding = iota // or what nobody can vouch for
	Whole                    // the copy that READY was said of: somebody else kept them open
	Executing                // it runs
)

// RestartDest continues where the process ended that wrote last, with what the devices
// hold now. A copy that was only loaded in part is nobody's: the source starts over. About one
// that was accepted and is gone, people decide.
func RestartDest(last Entry, holding Holding) (Dest, []DestAction) {
	d := Dest{Attempt: last.Attempt, Journal: last.Journal, Digest: last.Digest, Record: last.Record, MaxEpoch: last.Attempt.Epoch, Witness: last.Witness}
	switch {
	case last.Record == Forced && holding == Nothing: // the devices were started without it
		d.Phase, d.Note = DestEnded, last.Why.Text
	case last.Record == Forced:
		d.Phase, d.Note = DestStarting, last.Why.Text
		return d, []DestAction{Start{}}
	case last.Record == Ready && holding == Whole:
		d.Phase = DestReady
		return d, nil
	case last.Record == Open, last.Record == Ready:
		return d.decline(transport.CodeInternal, "", 0, "the destination was started again, and its copy is gone")
	case last.Record == Accept && holding == Nothing:
		d.Phase = DestEnded
		d, rec := d.record(Lost)
		return d, []DestAction{rec, Finish{migration.InDoubt}}
	case last.Record == Accept:
		d.Phase = DestStarting
		return d, []DestAction{Start{}}
	case last.Record == Running && holding == Nothing: // what has run is the source's no more
		d.Phase, d.StartNS = DestEnded, 1
	case last.Record == Running:
		d.Phase, d.StartNS = DestRunning, 1
	case last.Record == Aborted:
		return d, []DestAction{Reset{}}
	case last.Record == Done:
		d.Phase, d.StartNS = DestEnded, 1
	}
	return d, nil
}
