package continuing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Incoming is the migration that a run of mig-recv continues, if it does.
type Incoming struct {
	Flags       *Flags
	State       *State
	Specs       []input.Device
	Reconnect   time.Duration   // how long a source may take to reconnect
	Continued   *journal.Record // the newest of the migration that continues, nil for none
	overwritten journals        // what is older than what the devices hold
}

// FindNamed finds the migration of --migration. One that both sides know to have ended well is
// not received again.
func (i *Incoming) FindNamed() error {
	if err := i.State.check(); err != nil || i.Flags.migration == "" {
		return err
	}
	all, err := journal.Read(i.State.Path(journal.Destination, i.Flags.id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return i.Flags.noJournal(i.State)
	case err != nil:
		return i.State.unreadable(err)
	}
	last := all[len(all)-1]
	if last.Record == handoff.Done {
		return &Decided{Report: migration.Report{Outcome: migration.Committed, Attempt: last.Attempt, Peer: last.PeerID,
			Warnings: []string{fmt.Sprintf("the devices of this migration run here, and its source knows (attempt %d): nothing was received", last.Attempt.Epoch)}}}
	}
	i.Continued = &last
	return nil
}

// Begin finds the migration that continues, now that the devices are open, or have failed to
// open.
func (i *Incoming) Begin(devices []input.Opened, failed error) error {
	err := i.findLeft(devices, failed)
	if err == nil && failed == nil {
		failed = i.checkUnused()
	}
	if err != nil || failed == nil {
		return err
	}
	rep, err := i.Unserved(failed)
	if rep.Outcome == migration.InDoubt {
		return &Decided{rep, err}
	}
	return failed
}

// checkUnused finds another process that works on the migration. The engine finds that it is
// there, but not which it is: the engine runs in the sandbox.
func (i *Incoming) checkUnused() error {
	if i.Continued == nil {
		return nil
	}
	j, err := i.State.Journals(journal.Destination)(i.Continued.Attempt.Mig, true)
	if errors.Is(err, journal.ErrBusy) {
		return &transport.Fault{Code: transport.CodeBusy, Err: err}
	}
	if err == nil {
		j.(io.Closer).Close()
	}
	return nil // the engine reports what else is wrong with it
}

// findLeft finds the migration that continues, if there is one. Without a flag, devices that
// were lent may not be loaded over a copy.
func (i *Incoming) findLeft(devices []input.Opened, failed error) error {
	lent := slices.DeleteFunc(slices.Clone(devices), func(d input.Opened) bool { return !d.Lent })
	if i.Continued != nil || i.State.Directory() == "" || !i.Flags.find && len(lent) == 0 {
		return nil
	}
	all, err := i.State.ofDevices(journal.Destination)
	if err != nil {
		return err
	}
	if !i.Flags.find {
		return all.refuseDestination(lent)
	}
	all = i.dropOverwritten(all, persistedBy(devices))
	outlive := len(lent) > 0 || failed != nil && slices.ContainsFunc(i.Specs, input.Device.Outlives) ||
		!slices.ContainsFunc(devices, func(d input.Opened) bool { return !input.IsFile(d.Device) })
	left, err := i.chooseDestination(all, outlive, allAre(lent, isRunning))
	if err == nil {
		err = i.State.sameDevices(left)
	}
	if err == nil && left != nil {
		i.Continued = &left.Record
	}
	return err
}

// chooseDestination is the migration that continues, nil for none: a copy comes before a load
// that was interrupted. Where no device outlives its program, the journal answers a source
// that was not told of RUNNING, and a copy that was decided about is lost. A decision about
// devices that run is carried out, or they were reset long since.
func (i *Incoming) chooseDestination(all journals, outlive, run bool) (*Recorded, error) {
	copies := all.at(handoff.Ready, handoff.Accept)
	if outlive {
		copies = append(copies, all.at(handoff.Running).since(i.untoldSince())...)
	}
	if outlive && !run {
		copies = append(copies, all.forced()...)
	}
	if len(copies) == 0 {
		return all.at(handoff.Open).newest(), nil
	}
	return i.latest(copies)
}

// refuseDestination refuses to load over a copy that lent devices may hold, or over a load
// that was interrupted.
func (l journals) refuseDestination(lent []input.Opened) error {
	var held *Recorded
	for _, c := range []struct {
		record handoff.Record
		may    func(vfio.State) bool
	}{
		{handoff.Accept, func(vfio.State) bool { return true }},
		{handoff.Ready, mayHoldCopy},
		{handoff.Forced, isStopped},
		{handoff.Open, isInterrupted},
	} {
		if last := l.at(c.record).newest(); held == nil && last != nil && !l.overwritten(last) && anyIs(lent, c.may) {
			held = last
		}
	}
	if held == nil {
		return nil
	}
	return ui.Mistakef("--continue continues it; `mig-recv resolve --help` says how to end it; use another --state-dir for other devices",
		"migration %v is recorded as %v here, and the devices may hold it", held.Attempt.Mig, held.Record.Record)
}

// untoldSince is the earliest time of a RUNNING that the source may not have been told of.
func (i *Incoming) untoldSince() time.Time { return time.Now().Add(-i.Reconnect) }

// overwritten reports whether a later migration of the devices has ended well.
func (l journals) overwritten(r *Recorded) bool {
	done := l.at(handoff.Done).newest()
	return done != nil && !r.Time.After(done.Time)
}

// dropOverwritten leaves out what later migrations were loaded over, unless a device has
// persisted it.
func (i *Incoming) dropOverwritten(all journals, persisted map[string]bool) (picked journals) {
	for _, one := range all {
		switch {
		case !all.overwritten(&one) || persisted[one.Attempt.Mig.String()]:
			picked = append(picked, one)
		case slices.Contains([]handoff.Record{handoff.Ready, handoff.Accept, handoff.Forced}, one.Record.Record):
			i.overwritten = append(i.overwritten, one)
		}
	}
	return picked
}

// persistedBy are the ids that the devices have persisted copies of. A device that cannot list
// them is asked again by the engine, which reports why.
func persistedBy(devices []input.Opened) map[string]bool {
	ids := map[string]bool{}
	for _, d := range devices {
		if r, ok := d.Device.(vfio.Resumable); ok {
			list, _ := r.Persisted()
			for _, l := range list {
				ids[l.ID] = true
			}
		}
	}
	return ids
}

// forced is the migration that a person has decided to run here, if nothing was recorded
// after that.
func (l journals) forced() journals {
	if last := l.newest(); last != nil && last.Record.Record == handoff.Forced {
		return journals{*last}
	}
	return nil
}

// latest is the migration whose copy the devices hold. Where the newest was accepted, it was
// loaded over the older ones. A copy that is complete, and no more, may have older ones beside
// it whose sources still wait.
func (i *Incoming) latest(list journals) (*Recorded, error) {
	last := list.newest()
	if last == nil || last.Record.Record == handoff.Ready {
		return list.only()
	}
	for _, one := range list {
		if one.Attempt.Mig != last.Attempt.Mig {
			i.overwritten = append(i.overwritten, one)
		}
	}
	return last, nil
}

// Announce warns of copies that are lost.
func (i *Incoming) Announce(warn func(text string)) {
	if len(i.overwritten) > 0 {
		warn(fmt.Sprintf("the devices were loaded again since: %v does not continue; the journal answers its source", i.overwritten))
	}
}

// isStopped is the state of a copy that was not started.
func isStopped(now vfio.State) bool { return now == vfio.Stop }

// mayHoldCopy is the state of a device that may hold a copy.
func mayHoldCopy(now vfio.State) bool { return now == vfio.Stop || now == vfio.RunningP2P }

// isInterrupted is the state of a device in the middle of a load, or behind one that failed.
func isInterrupted(now vfio.State) bool { return now == vfio.Resuming || now == vfio.StateError }

// Unserved is the outcome of a run that ends before the engine starts: what was promised of a
// migration that was to continue stays. A migration at RUNNING is not committed either: its
// source may not know, and the devices were not looked at.
func (i *Incoming) Unserved(err error) (migration.Report, error) {
	if i.Continued == nil || slices.Contains([]handoff.Record{handoff.None, handoff.Open, handoff.Aborted}, i.Continued.Record) {
		return migration.Report{Outcome: migration.Aborted}, err
	}
	return migration.Report{Outcome: migration.InDoubt, Attempt: i.Continued.Attempt, Peer: i.Continued.PeerID}, &Untried{err, *i.Continued}
}

// Untried is why a migration that was chosen did not continue.
type Untried struct {
	error
	last journal.Record
}

// Unwrap gives the cause.
func (u *Untried) Unwrap() error { return u.error }

// HintsInDoubt implements doubtful.
func (u *Untried) HintsInDoubt(s ui.Scene) []string {
	hint := fmt.Sprintf("migration %v is recorded as %v here, and did not continue: start nothing here and reset nothing; once the cause is mended, the same command continues it", u.last.Attempt.Mig, u.last.Record)
	return append([]string{hint}, s.OfError(u.error)...)
}
