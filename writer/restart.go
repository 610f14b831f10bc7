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

// continueMigration continues the migration of Options.Continue, if the devices hold the state that
// its journal records.
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
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("migration %v, attempt %d, was accepted before a restart of this host: a person may have decided at its source meanwhile, so its devices start when the source asks, or after `resolve`", last.Attempt.Mig, last.Attempt.Epoch)})
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
		err = errors.New("the devices hold nothing of it: its path may differ, or its file system is not mounted")
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
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("migration %v, attempt %d, is recorded as %v, and the devices hold nothing to continue with: its source gets that answer when it asks", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
		e.recordLostCopy(last)
		e.closeJournal() // until now the open journal excluded other processes
		return
	}
	e.fleet.adopt(last.Record)
	e.continueFrom(j, holding)
}

// continueFrom continues with the record and the state of the devices.
func (e *engine) continueFrom(j handoff.Journal, holding handoff.Holding) {
	last := j.Last()
	e.journal = j
	e.report.Attempt, e.report.Peer, e.bytesBefore, e.conn.lostAt = last.Attempt, last.PeerID, last.Why.Bytes, time.Now()
	e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("continuing migration %v, attempt %d, recorded as %v", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
	next, actions := handoff.RestartDest(last, holding)
	e.handoff = next
	e.apply(actions)
}

// recordLostCopy records the end of a migration whose copy is not in its devices. A part of a copy,
// or a copy that was never accepted, has no owner: its source may never come. After ACCEPT people
// have to look at devices that another process holds open before they take another migration.
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

// requireDecision ends Receive if another process holds all devices open: an accepted copy may
// still concern them, so they take no other migration.
func (e *engine) requireDecision(last handoff.Entry) {
	if slices.ContainsFunc(e.fleet.devices, func(d *device) bool { return !d.HeldOpen }) {
		return
	}
	e.reportInDoubt(last, errors.New("the devices do not hold it"))
}

// isFenced reports whether devices may hold a copy that was accepted before the host was restarted,
// and whose source may resume since. Devices that do not persist lose such a copy (LOST). Devices
// that do wait for the source, which asks only as long as no person has decided there.
func (e *engine) isFenced(j handoff.Journal) bool {
	return j.Last().Record == handoff.Accept && handoff.Rebooted(j) && e.fleet.resumable()
}

// ErrCannotContinue says that devices may hold the recorded state of a migration, and that this
// process cannot continue with that state: nothing was changed.
var ErrCannotContinue = errors.New("this process cannot continue the migration")

func cannotResume(last handoff.Entry, why error) error {
	return fmt.Errorf("migration %v, attempt %d, is recorded as %v, and %w: %w", last.Attempt.Mig, last.Attempt.Epoch, last.Record, ErrCannotContinue, why)
}

// reportInDoubt ends Receive in doubt: people have to look at the devices before they take another
// state.
func (e *engine) reportInDoubt(last handoff.Entry, why error) {
	e.report.Attempt, e.report.Peer, e.report.Outcome, e.done = last.Attempt, last.PeerID, migration.InDoubt, true
	e.noteCause(&transport.Fault{Code: transport.CodeBusy, Err: cannotResume(last, why)})
}

// resumeCopyFor resumes the copy that a source asks about with RESUME, if an earlier process left
// it complete. Otherwise the source is answered from the journal. It opens the files in the loop:
// nothing else happens meanwhile.
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
		if err != nil && e.warnedCopy != last.Attempt { // the source gets the record
			e.warnedCopy = last.Attempt
			e.emit(migration.Event{Kind: migration.Warning, Text: cannotResume(last, err).Error()})
		}
	}
	if c, ok := j.(io.Closer); ok {
		c.Close()
	}
}

// resumeCopy continues with a complete copy that a journal records and the devices hold. It reports
// whether it can. The engine then owns the journal. An error says that the devices hold a complete
// state that it cannot continue with: it leaves that state for a person to look at.
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

// persists reports whether a complete copy of this attempt is to outlive this process. A later
// process must be able to resume all of it, and must know that it may. A source that is a process
// of this host ends with it, so its copy is not persisted.
func (e *engine) persists() bool {
	_, lasts := e.journal.(handoff.Lasting)
	return lasts && !e.conn.local && e.fleet.resumable()
}

// removeRecords removes the records of a committed copy when the source has confirmed RUNNING: it
// does not ask again.
func (e *engine) removeRecords() {
	if e.handoff.Record != handoff.Done {
		return
	}
	if err := e.fleet.removeSessions(e.handoff.Attempt.Mig); err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("remove the session's record: %v", err))
	}
}
