package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// named finds the migration of --migration. One that has ended well is not gone on with.
func (r *recvFlags) named() error {
	if err := r.state.check(); err != nil || r.past.migration == "" {
		return err
	}
	all, err := journal.Read(r.state.path(journal.Destination, r.past.id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.past.noJournal(&r.state)
	case err != nil:
		return r.state.unreadable(err)
	}
	last := all[len(all)-1]
	if last.Record == handoff.Done {
		return &decided{report: migration.Report{Outcome: migration.Committed, Attempt: last.Attempt, Peer: last.PeerID,
			Warnings: []string{fmt.Sprintf("the devices of this migration run here, and its source knows (attempt %d): nothing was received", last.Attempt.Epoch)}}}
	}
	r.known = &last
	return nil
}

// begin finds the migration that mig-recv goes on with, now that the devices are open, or
// have failed to open.
func (r *recvFlags) begin(devices []opened, failed error) error {
	err := r.find(devices, failed)
	if err == nil && failed == nil {
		failed = r.unused()
	}
	if err != nil || failed == nil {
		return err
	}
	rep, err := r.unserved(failed)
	if rep.Outcome == migration.InDoubt {
		return &decided{rep, err}
	}
	return failed
}

// unused finds another process that works on the migration. The engine would find it too, but
// not which one: it runs in the sandbox.
func (r *recvFlags) unused() error {
	if r.known == nil {
		return nil
	}
	j, err := r.state.journals(journal.Destination)(r.known.Attempt.Mig, true)
	if errors.Is(err, journal.ErrBusy) {
		return &transport.Fault{Code: transport.CodeBusy, Err: err}
	}
	if err == nil {
		j.(io.Closer).Close()
	}
	return nil // the engine tells what else is wrong with it
}

// find finds it, if there is one. What devices of its own have held has ended with the
// process before, which the engine records. Of devices that have failed to open only --continue says whose they are.
func (r *recvFlags) find(devices []opened, failed error) error {
	lent := slices.DeleteFunc(slices.Clone(devices), func(d opened) bool { return !d.lent })
	maybe := len(lent) > 0
	if failed != nil {
		maybe = r.past.goOn && r.maybeLent()
	}
	if r.known != nil || r.state.folder() == "" || !maybe && (failed != nil || !r.past.goOn) {
		return nil
	}
	kept := keptBy(devices)
	left, err := r.state.remaining(journal.Destination, func(mig migration.ID, kind handoff.Record, written time.Time) bool {
		return kept[mig.String()] || kind == handoff.Running && written.After(r.untoldSince())
	})
	if err != nil {
		return err
	}
	left = r.pass(left, kept)
	if !maybe {
		list := left.at(handoff.Ready, handoff.Accept)
		if !slices.ContainsFunc(devices, func(d opened) bool { return !isFile(d.Device) }) {
			list = append(list, left.decided()...) // files keep what they were given
		}
		r.known, err = r.latest(list)
		return err
	}
	r.known, err = r.choose(left, devices, lent)
	return err
}

// maybeLent reports whether the command line has a device that somebody else may have.
func (r *recvFlags) maybeLent() bool {
	specs, err := parseDevices(r.devices, sink)
	return err == nil && slices.ContainsFunc(specs, func(d device) bool { return d.isFD() || d.keep() != "" })
}

// unserved is the outcome of a run that comes to nothing before the engine has a say:
// what was promised of a migration that it was to go on with is as it was. That is not
// committed either where RUNNING is recorded: its source may not have been told, and
// nobody has looked at the devices.
func (r *recvFlags) unserved(err error) (migration.Report, error) {
	if r.known == nil || slices.Contains([]handoff.Record{handoff.None, handoff.Open, handoff.Aborted}, r.known.Record) {
		return migration.Report{Outcome: migration.Aborted}, err
	}
	return migration.Report{Outcome: migration.InDoubt, Attempt: r.known.Attempt, Peer: r.known.PeerID}, &untried{err, *r.known}
}

// untried is why a migration that was left was not gone on with, although it was chosen.
type untried struct {
	error
	last journal.Record
}

func (u *untried) Unwrap() error { return u.error }

func (u *untried) hint() string {
	return fmt.Sprintf("migration %v is recorded as %v here, and was not gone on with: start nothing here and reset nothing; the same command goes on with it, once that is mended", u.last.Attempt.Mig, u.last.Record)
}

// choose picks the migration that is gone on with: nil for none. Without a flag it is one
// whose copy the devices seem to hold. Whether devices that run were accepted, or reset
// since, nobody can tell.
func (r *recvFlags) choose(left remains, devices, lent []opened) (past *journal.Record, err error) {
	ready, accepted, forced := left.at(handoff.Ready), left.at(handoff.Accept), left.decided()
	switch {
	case r.past.goOn:
		// A source that was not told of RUNNING in time is answered from the journal.
		untold := left.at(handoff.Running).since(r.untoldSince())
		if all(lent, runs) { // whoever was decided for runs, or is long gone
			forced = nil
		}
		past, err = r.latest(slices.Concat(ready, accepted, untold, forced))
	case len(accepted) > 0 && some(lent, runs):
		return nil, mistakef("--continue goes on with it; use another --state-dir for other devices",
			"migration %v was accepted here, and its devices may be these", accepted[0].Attempt.Mig)
	case len(forced) > 0 && len(lent) == len(devices) && all(lent, stopped):
		past, err = r.latest(slices.Concat(ready, accepted, forced))
	case len(lent) == len(devices) && all(lent, loaded):
		past, err = r.latest(slices.Concat(ready, accepted))
	}
	if past == nil && err == nil && some(lent, broken) { // the engine resets what is nobody's
		past = left.at(handoff.Open).newest()
	}
	return past, err
}

// untoldSince is when a source that comes back can have been told of RUNNING at the earliest.
func (r *recvFlags) untoldSince() time.Time { return time.Now().Add(-r.reconnect) }

// pass leaves out what is older than a migration that has ended well: its devices were
// loaded anew by that, unless they have kept it.
func (r *recvFlags) pass(left remains, kept map[string]bool) (picked remains) {
	done := left.at(handoff.Done).newest()
	if done == nil {
		return left
	}
	for _, one := range left {
		switch {
		case one.Time.After(done.Time) || kept[one.Attempt.Mig.String()]:
			picked = append(picked, one)
		case r.past.goOn && (one.Record == handoff.Ready || one.Record == handoff.Accept || one.Record == handoff.Forced):
			r.passed = append(r.passed, one)
		}
	}
	return picked
}

// keptBy names what devices have kept. One that does not tell is asked again by the engine.
func keptBy(devices []opened) map[string]bool {
	kept := map[string]bool{}
	for _, d := range devices {
		if r, ok := d.Device.(vfio.Resumable); ok {
			list, _ := r.Persisted()
			for _, l := range list {
				kept[l.ID] = true
			}
		}
	}
	return kept
}

// decided is the migration of which a person has decided that it runs here, if nothing
// was recorded after that.
func (l remains) decided() remains {
	if last := l.newest(); last != nil && last.Record == handoff.Forced {
		return remains{*last}
	}
	return nil
}

// latest is the one whose devices these are. Where that which was written to last was
// accepted, older ones are nobody's: the devices were loaded anew since. A copy that is
// only complete may have older ones beside it that are still to be answered for.
func (r *recvFlags) latest(list remains) (*journal.Record, error) {
	last := list.newest()
	if last == nil || last.Record == handoff.Ready {
		return list.one()
	}
	for _, one := range list {
		if one.Attempt.Mig != last.Attempt.Mig {
			r.passed = append(r.passed, one)
		}
	}
	return last, nil
}

// announce says of what --continue was asked for, and cannot go on with, and of what was
// passed over.
func (r *recvFlags) announce(show *show) {
	if len(r.passed) > 0 {
		show.warn(fmt.Sprintf("what the devices hold is of a later migration: %v is not gone on with; its source is answered from the journal when it asks", r.passed))
	}
}

// stopped is the state of a copy that was not started.
func stopped(now vfio.State) bool { return now == vfio.Stop }

// loaded is the state of a device that may hold a copy.
func loaded(now vfio.State) bool { return now == vfio.Stop || now == vfio.RunningP2P }

// broken is the state of a device whose load has come to nothing.
func broken(now vfio.State) bool { return now == vfio.Resuming || now == vfio.Error }

// since picks those that were written to after a time.
func (l remains) since(t time.Time) (picked remains) {
	for _, r := range l {
		if r.Time.After(t) {
			picked = append(picked, r)
		}
	}
	return picked
}
