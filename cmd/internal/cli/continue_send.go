package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// outgoing is the migration that a run of mig-send is about.
type outgoing struct {
	attempt migration.Attempt
	journal handoff.Journal // nil until it is known which
	named   bool            // by --migration: a person insists
	older   journals        // unfinished, and over by what was recorded later
}

func (o *outgoing) close() {
	if o == nil {
		return
	}
	if file, ok := o.journal.(io.Closer); ok {
		file.Close() // every record was synced when it was written
	}
}

// untouched is the outcome of a run that ends before the engine starts.
func (o *outgoing) untouched() migration.Outcome {
	if o.journal != nil && o.journal.Last().Record == handoff.Commit {
		return migration.InDoubt
	}
	return migration.Aborted
}

// announce warns that devices resume first, where an attempt ended with its process. The
// engine reports an attempt that is in doubt.
func (o *outgoing) announce(show *show) {
	if last := o.journal.Last(); last.Unfinished() {
		show.warn(fmt.Sprintf("continuing migration %v: attempt %d ended with its process, and attempt %d follows once the devices have resumed", last.Attempt.Mig, last.Attempt.Epoch, o.attempt.Epoch))
	}
}

// openNamed opens the journal that --migration names. Its record may be the outcome, whatever
// the devices are.
func (s *sendFlags) openNamed(o *outgoing) error {
	if err := s.state.check(); err != nil || s.continues.migration == "" {
		return err
	}
	o.named = true
	return s.reopen(o, s.continues.id)
}

// begin opens the journal of this run, if none is open yet.
func (s *sendFlags) begin(o *outgoing, devices []opened, failed error) error {
	if errors.Is(failed, vfio.ErrBusy) && o.journal == nil && !s.continues.find {
		return failed // the process that has the device has its journal, too
	}
	if err := s.findLeft(o, devices); err != nil {
		return err
	}
	if failed != nil && o.untouched() == migration.InDoubt {
		return &decided{migration.Report{Outcome: migration.InDoubt, Attempt: o.attempt}, failed}
	}
	if failed != nil || o.journal != nil {
		return failed
	}
	o.attempt = migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	j, err := s.state.journals(journal.Source)(o.attempt.Mig, false)
	if err != nil {
		return mistakef("name another directory with --state-dir", "%s", plainText(err))
	}
	o.journal = j
	return nil
}

// findLeft opens the journal of the migration that continues, if there is one.
func (s *sendFlags) findLeft(o *outgoing, devices []opened) error {
	if o.journal != nil || s.state.directory() == "" {
		return nil
	}
	all, err := s.state.ofDevices(journal.Source)
	if err != nil {
		return err
	}
	if !s.continues.find {
		return all.refuseSource(devices, &s.state)
	}
	left, err := all.chooseSource(devices)
	if err == nil {
		err = s.state.sameDevices(left)
	}
	if err != nil || left == nil {
		return err
	}
	o.older = all.unfinished()
	return s.reopen(o, left.Attempt.Mig)
}

// chooseSource is the migration that continues, nil for a new one. A migration in doubt comes
// first, before one that was interrupted.
func (l journals) chooseSource(devices []opened) (*recorded, error) {
	for _, candidates := range []journals{l.at(handoff.Commit), l.interrupted()} {
		if len(candidates) > 0 {
			return candidates.only()
		}
	}
	return l.finished(devices), nil
}

// refuseSource refuses a new migration of devices that the destination runs, or may run, or
// that the source has to resume first.
func (l journals) refuseSource(devices []opened, s *stateFlags) error {
	doubt, open := l.at(handoff.Commit), l.interrupted()
	switch {
	case len(doubt) > 0:
		return mistakef("--continue asks the destination; if the destination is dead, see `mig-send resolve --help`",
			"migration %v of these devices is in doubt, by %s", doubt[0].Attempt.Mig, s.path(journal.Source, doubt[0].Attempt.Mig))
	case len(open) > 0 && anyIs(devices, isNotRunning):
		return mistakef("--continue resumes the devices, and tries the migration again",
			"not all of the devices run, and migrations of them were interrupted: %v", open)
	}
	if done := l.finished(devices); done != nil {
		return mistakef("there is nothing to send: --continue exits with 0; if the VM was started here again since, resume the devices or reset them",
			"the devices of migration %v run at its destination, and none of them runs here", done.Attempt.Mig)
	}
	return nil
}

// unfinished picks those whose devices the source still has to resume: OPEN as a rule.
func (l journals) unfinished() (picked journals) {
	for _, r := range l {
		if r.Unfinished() {
			picked = append(picked, r)
		}
	}
	return picked
}

// interrupted picks the unfinished ones behind which nothing but others of them was recorded.
// An older one is over: its devices ran again before a later migration of them began. If that
// has given them up, resuming them would start a second copy.
func (l journals) interrupted() journals {
	open := l.unfinished()
	for _, r := range l {
		if !r.Unfinished() {
			open = open.since(r.Time)
		}
	}
	return open
}

// finished is the newest migration, if the devices run at its destination and none runs here:
// its process was lost before it could report that.
func (l journals) finished(devices []opened) *recorded {
	if last := l.newest(); last != nil && last.Record.Record == handoff.Done && allAre(devices, isNotRunning) {
		return last
	}
	return nil
}

// reopen opens the journal of a migration that was begun before. A journal that cannot be
// read leaves the migration in doubt.
func (s *sendFlags) reopen(o *outgoing, mig migration.ID) error {
	o.attempt.Mig = mig
	doubt := &decided{report: migration.Report{Outcome: migration.InDoubt, Attempt: o.attempt}}
	j, err := s.state.journals(journal.Source)(mig, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.continues.noJournal(&s.state)
	case err != nil:
		doubt.err = &transport.Fault{Code: transport.CodeBusy, Err: err}
		return doubt
	}
	last := j.Last()
	o.journal, o.attempt.Epoch = j, last.Attempt.Epoch+1
	doubt.report.Attempt, doubt.report.Peer = last.Attempt, last.PeerID
	switch err := handoff.MayOpen(last, o.attempt); {
	case errors.Is(err, handoff.ErrInDoubt): // the engine asks the destination
		o.attempt = last.Attempt
		return nil
	case errors.Is(err, handoff.ErrGone):
		doubt.report.Outcome, doubt.report.Warnings = migration.Committed, []string{err.Error() + ": nothing was sent"}
		if len(o.older) > 0 {
			doubt.report.Warnings = append(doubt.report.Warnings, fmt.Sprintf("migration %v is older: if the devices are of that one, say --migration", o.older))
		}
	case err != nil:
		doubt.err = &transport.Fault{Code: transport.CodeBusy, Err: err}
	default:
		return nil
	}
	return doubt
}
