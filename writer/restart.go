package writer

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// restart continues with the migration of Options.Recover, if the devices hold what its
// journal says that they do.
func (e *engine) continueMigration() {
	if e.opts.Continue == (migration.ID{}) {
		return
	}
	j, err := e.opts.Journals(e.opts.Continue, true)
	if err != nil {
		e.endBy(&transport.Fault{Code: transport.CodeBusy, Err: fmt.Errorf("open the journal: %w", err)}, handoff.Interrupt{})
		return
	}
	last := j.Last()
	if e.isFenced(j) {
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("migration %v, attempt %d, was accepted, and this host was restarted since: somebody may have decided at its source meanwhile, so that it is started when that asks, or when `resolve` says so", last.Attempt.Mig, last.Attempt.Epoch)})
		e.unresolved = last
		e.journal = j
		e.closeJournal()
		return
	}
	resumed, err := e.resumeCopy(j)
	if resumed {
		return
	}
	e.journal = j
	if err == nil && e.fleet.resumable() && (last.Record == handoff.Ready || last.Record == handoff.Accept) {
		err = errors.New("nothing of it is there: it may be at another path, or what it is on is not mounted")
	}
	if err != nil {
		e.reportInDoubt(last, err)
		return
	}
	holding := e.fleet.holding(last.Record)
	if handoff.Rebooted(j) {
		holding = handoff.Nothing
	}
	if holding == handoff.Nothing {
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("migration %v, attempt %d, is recorded as %v, and the devices hold nothing that could be gone on with: its source is told so when it asks", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
		e.recordLostCopy(last)
		e.closeJournal() // which until now has kept other processes from the devices
		return
	}
	e.fleet.adopt(last.Record)
	e.continueFrom(j, holding)
}

// continueFrom continues with what is recorded and what the devices hold.
func (e *engine) continueFrom(j handoff.Journal, holding handoff.Holding) {
	last := j.Last()
	e.journal = j
	e.report.Attempt, e.report.Peer, e.bytesBefore, e.conn.lostAt = last.Attempt, last.PeerID, last.Why.Bytes, time.Now()
	e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("going on with migration %v, attempt %d, which is recorded as %v", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
	next, actions := handoff.RestartDest(last, holding)
	e.handoff = next
	e.apply(actions)
}

// abandonCopy records what has become of a migration whose copy is not in its devices.
// A part of one, or one that was never accepted, is nobody's: neither its source nor
// another one may ever come. Of one that was accepted people have to look at devices
// that somebody has kept, before anything else is done with them.
func (e *engine) recordLostCopy(last handoff.Entry) {
	var err error
	switch last.Record {
	case handoff.Open, handoff.Ready:
		_, err = e.fleet.resetParts()
	case handoff.Accept:
	case handoff.Forced, handoff.Lost:
		e.requireDecision(last)
		return
	default:
		return
	}
	if err == nil {
		_, actions := handoff.RestartDest(last, handoff.Nothing)
		a := &answerer{journal: e.journal, removeSessions: func() { err = e.fleet.removeSessions(last.Attempt.Mig) }}
		failed := a.apply(actions)
		err = errors.Join(failed, err)
	}
	if err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("end attempt %d: %v", last.Attempt.Epoch, err))
	}
	if last.Record == handoff.Accept {
		e.requireDecision(last)
	}
}

// leaveToPeople takes no other migration into devices that somebody keeps, and that an
// accepted one may still be about.
func (e *engine) requireDecision(last handoff.Entry) {
	if slices.ContainsFunc(e.fleet.devices, func(d *device) bool { return !d.HeldOpen }) {
		return
	}
	e.reportInDoubt(last, errors.New("the devices do not hold it"))
}

// fenced reports whether devices may hold what was accepted before the host was
// restarted, or was killed by somebody who then had the source go on: the devices that
// know no better are gone by then (LOST), and those that have kept it wait for the source,
// which asks only as long as nobody has decided there.
func (e *engine) isFenced(j handoff.Journal) bool {
	return j.Last().Record == handoff.Accept && handoff.Rebooted(j) && e.fleet.resumable()
}

// ErrCannotContinue says that devices may hold what is recorded of a migration, and that this
// process cannot continue with it: nothing was changed.
var ErrCannotContinue = errors.New("this process cannot continue with it")

func cannotResume(last handoff.Entry, why error) error {
	return fmt.Errorf("migration %v, attempt %d, is recorded as %v, and %w: %w", last.Attempt.Mig, last.Attempt.Epoch, last.Record, ErrCannotContinue, why)
}

// hand hands a migration to people, who have to look at the devices before anything else
// is loaded into them.
func (e *engine) reportInDoubt(last handoff.Entry, why error) {
	e.report.Attempt, e.report.Peer, e.report.Outcome, e.done = last.Attempt, last.PeerID, migration.InDoubt, true
	e.noteCause(&transport.Fault{Code: transport.CodeBusy, Err: cannotResume(last, why)})
}

// resumeFor resumes the copy that a source asks about with RESUME, if a process before this
// one has left it complete. If not, the source is answered from the journal. The files are
// opened in the loop: nothing else happens until then.
func (e *engine) resumeCopyFor(m *wire.Resume, lane transport.Lane) {
	if e.engaged() || !e.fleet.resumable() {
		return
	}
	j, err := e.opts.Journals(m.Mig, true)
	if err != nil {
		return // the answer from the journal will name the error
	}
	if last := j.Last(); checkResume(j, m, lane) == nil && m.Epoch == last.Attempt.Epoch {
		resumed, err := e.resumeCopy(j)
		if resumed {
			return
		}
		if err != nil && e.warnedCopy != last.Attempt { // the source is told what is recorded
			e.warnedCopy = last.Attempt
			e.emit(migration.Event{Kind: migration.Warning, Text: cannotResume(last, err).Error()})
		}
	}
	if c, ok := j.(io.Closer); ok {
		c.Close()
	}
}

// resumeCopy continues with a complete copy that a journal records and the devices hold, and
// reports whether it can. The journal is the engine's then. An error says that the devices
// hold something complete that it cannot continue with: it leaves that as it is, for a person
// to look at.
func (e *engine) resumeCopy(j handoff.Journal) (bool, error) {
	last := j.Last()
	complete := last.Record == handoff.Ready || last.Record == handoff.Accept || last.Record == handoff.Forced
	if _, lasts := j.(handoff.Lasting); !lasts || !complete || !e.fleet.resumable() {
		return false, nil
	}
	e.fleet.session = sessionID(last.Attempt.Mig)
	holding, err := e.fleet.resume(last)
	if err != nil || holding == handoff.Nothing {
		return false, err
	}
	e.continueFrom(j, holding)
	return true, nil
}

// persists reports whether a complete copy of this attempt is to outlive this process. It is
// of no use where a later process could not resume all of it, or would not know that it may,
// or where the source is a process of this host, which ends with it.
func (e *engine) persists() bool {
	_, lasts := e.journal.(handoff.Lasting)
	return lasts && !e.conn.local && e.fleet.resumable()
}

// removeRecords removes the records of what was committed, when the source has heard that the
// devices run: it does not ask again.
func (e *engine) removeRecords() {
	if e.handoff.Record != handoff.Done {
		return
	}
	if err := e.fleet.removeSessions(e.handoff.Attempt.Mig); err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("remove the session's record: %v", err))
	}
}
