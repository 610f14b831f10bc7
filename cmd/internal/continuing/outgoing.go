package continuing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Outgoing is the migration that a run of mig-send is about.
type Outgoing struct {
	Flags   *Flags
	State   *State
	Attempt migration.Attempt
	Journal handoff.Journal // nil until it is known which
	Named   bool            // by --migration: a person insists
	older   journals        // unfinished, and over by what was recorded later
}

// Close closes the journal, if one is open. A nil Outgoing has none.
func (o *Outgoing) Close() {
	if o == nil {
		return
	}
	if file, ok := o.Journal.(io.Closer); ok {
		file.Close() // every record was synced when it was written
	}
}

// Untouched is the outcome of a run that ends before the engine starts.
func (o *Outgoing) Untouched() migration.Outcome {
	if o.Journal != nil && o.Journal.Last().Record == handoff.Commit {
		return migration.InDoubt
	}
	return migration.Aborted
}

// Announce warns that devices resume first, where an attempt ended with its process. The
// engine reports an attempt that is in doubt.
func (o *Outgoing) Announce(warn func(text string)) {
	if last := o.Journal.Last(); last.Unfinished() {
		warn(fmt.Sprintf("continuing migration %v: attempt %d ended with its process, and attempt %d follows once the devices have resumed", last.Attempt.Mig, last.Attempt.Epoch, o.Attempt.Epoch))
	}
}

// OpenNamed opens the journal that --migration names. Its record may be the outcome, for
// any devices.
func (o *Outgoing) OpenNamed() error {
	if err := o.State.check(); err != nil || o.Flags.migration == "" {
		return err
	}
	o.Named = true
	return o.reopen(o.Flags.id)
}

// Begin opens the journal of this run, if none is open yet.
func (o *Outgoing) Begin(devices []input.Opened, failed error) error {
	if errors.Is(failed, vfio.ErrBusy) && o.Journal == nil && !o.Flags.find {
		return failed // the process that has the device has its journal, too
	}
	if err := o.findLeft(devices); err != nil {
		return err
	}
	if failed != nil && o.Untouched() == migration.InDoubt {
		return &Decided{migration.Report{Outcome: migration.InDoubt, Attempt: o.Attempt}, failed}
	}
	if failed != nil || o.Journal != nil {
		return failed
	}
	o.Attempt = migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	j, err := o.State.Journals(journal.Source)(o.Attempt.Mig, false)
	if err != nil {
		return ui.Mistakef("name another directory with --state-dir", "%s", ui.PlainText(err))
	}
	o.Journal = j
	return nil
}

// findLeft opens the journal of the migration that continues, if there is one.
func (o *Outgoing) findLeft(devices []input.Opened) error {
	if o.Journal != nil || o.State.Directory() == "" {
		return nil
	}
	all, err := o.State.ofDevices(journal.Source)
	if err != nil {
		return err
	}
	if !o.Flags.find {
		return all.refuseSource(devices, o.State)
	}
	left, err := all.chooseSource(devices)
	if err == nil {
		err = o.State.sameDevices(left)
	}
	if err != nil || left == nil {
		return err
	}
	o.older = all.unfinished()
	return o.reopen(left.Attempt.Mig)
}

// chooseSource is the migration that continues, nil for a new one. A migration in doubt comes
// first, before one that was interrupted.
func (l journals) chooseSource(devices []input.Opened) (*Recorded, error) {
	for _, candidates := range []journals{l.at(handoff.Commit), l.interrupted()} {
		if len(candidates) > 0 {
			return candidates.only()
		}
	}
	return l.finished(devices), nil
}

// refuseSource refuses a new migration of devices that the destination runs, or may run, or
// that the source has to resume first.
func (l journals) refuseSource(devices []input.Opened, s *State) error {
	doubt, open := l.at(handoff.Commit), l.interrupted()
	switch {
	case len(doubt) > 0:
		return ui.Mistakef("--continue asks the destination; if the destination is dead, see `mig-send resolve --help`",
			"migration %v of these devices is in doubt, by %s", doubt[0].Attempt.Mig, s.Path(journal.Source, doubt[0].Attempt.Mig))
	case len(open) > 0 && anyIs(devices, isNotRunning):
		return ui.Mistakef("--continue resumes the devices, and tries the migration again",
			"not all of the devices run, and migrations of them were interrupted: %v", open)
	}
	if done := l.finished(devices); done != nil {
		return ui.Mistakef("there is nothing to send: --continue exits with 0; if the VM was started here again since, resume the devices or reset them",
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
func (l journals) finished(devices []input.Opened) *Recorded {
	if last := l.newest(); last != nil && last.Record.Record == handoff.Done && allAre(devices, isNotRunning) {
		return last
	}
	return nil
}

// reopen opens the journal of a migration that was begun before. A journal that cannot be
// read leaves the migration in doubt.
func (o *Outgoing) reopen(mig migration.ID) error {
	o.Attempt.Mig = mig
	doubt := &Decided{Report: migration.Report{Outcome: migration.InDoubt, Attempt: o.Attempt}}
	j, err := o.State.Journals(journal.Source)(mig, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return o.Flags.noJournal(o.State)
	case err != nil:
		doubt.Err = &transport.Fault{Code: transport.CodeBusy, Err: err}
		return doubt
	}
	last := j.Last()
	o.Journal, o.Attempt.Epoch = j, last.Attempt.Epoch+1
	doubt.Report.Attempt, doubt.Report.Peer = last.Attempt, last.PeerID
	switch err := handoff.MayOpen(last, o.Attempt); {
	case errors.Is(err, handoff.ErrInDoubt): // the engine asks the destination
		o.Attempt = last.Attempt
		return nil
	case errors.Is(err, handoff.ErrGone):
		doubt.Report.Outcome, doubt.Report.Warnings = migration.Committed, []string{err.Error() + ": nothing was sent"}
		if len(o.older) > 0 {
			doubt.Report.Warnings = append(doubt.Report.Warnings, fmt.Sprintf("migration %v is older: if the devices are of that one, say --migration", o.older))
		}
	case err != nil:
		doubt.Err = &transport.Fault{Code: transport.CodeBusy, Err: err}
	default:
		return nil
	}
	return doubt
}
