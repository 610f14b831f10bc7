package handoff

import (
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// RestartSource continues after the newest entry of the journal, which an earlier process wrote:
// it repeats the idempotent action, and in doubt it asks the destination.
func RestartSource(last Entry) (Source, []SourceAction) {
	s := Source{Attempt: last.Attempt, Journal: last.Journal, PeerJournal: last.PeerJournal, Digest: last.Digest, Record: last.Record, Witness: last.Witness}
	switch {
	case last.Record == Commit:
		s.Phase, s.Empty = SourceDoubt, last.Sole
		return s, []SourceAction{Send{s.doubtMessage()}}
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
	return s.resumeDevices(Failed{})
}

// CommitThere is the entry for the decision of a person that the destination runs its copy,
// since the devices cannot be resumed at the source. last is the newest entry of the source.
// The decision is allowed only if no device of the set has been in RUNNING since the last END:
// after OPEN and RESUME_FAILED. After OWNER, some device may have been. The source does not ask
// for the devices after it.
//
// The destination's journal and digest are zero if the source has not received them. It asks
// for them before it sends COMMIT.
func CommitThere(last Entry, text string) (Entry, bool) {
	if last.Record != Open && last.Record != ResumeFailed {
		return last, false
	}
	last.Record, last.Sole, last.Why.Text, last.Why.Code = Commit, true, text, 0
	return last, true
}

// Holding is what the devices of a destination hold when a later process continues.
type Holding uint8

// What devices hold.
const (
	Nothing   Holding = iota // or something unknown
	Whole                    // the copy of READY: another process has held the devices open
	Executing                // the copy runs
)

// RestartDest continues after the newest entry of the journal, which an earlier process wrote,
// with what the devices hold now. A copy that was loaded in part is discarded: the source starts
// over. People decide about a copy that was accepted and is gone.
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
	case last.Record == Running && holding == Nothing: // the devices have run: they are not the source's any more
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
