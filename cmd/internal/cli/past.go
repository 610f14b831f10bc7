package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// What a program does that is started again, by side. The first half is of both.
const (
	pastHelp = `A program that was lost is started again with the same arguments. --continue says that
its devices are those of the migration that a process before this one has left in
--state-dir, and begins anew if there is none: that is for supervisors, with a folder
for each VM. --migration ID says which it is.
`
	sendPastHelp = pastHelp + `Of one in doubt the destination is asked. One that was left open, and that nothing else
was recorded after, is tried again, once its devices are taken back; devices that stand
still behind one that went well are left alone, and nothing is sent. Without a flag,
devices that all stand still are taken for those of the one migration that was left,
since somebody has kept them open; and while one is in doubt no new one begins with
devices that run.`
	recvPastHelp = pastHelp + `What a device holds outlives the program only where somebody else has it open: lent as
fd:N, or a sim: with keep=PATH. Without a flag, such devices in STOP are taken for those
of the one migration that has said READY, whose source is then waited for. What was
accepted here later than others is what the devices hold: of them a warning tells. What
` + "`resolve`" + ` has decided, as the newest here, is started if devices in STOP hold it. Those
that run may have been accepted here, or have been reset since, which nobody can tell:
say --continue only of devices that were not reset. For devices that the program opens
itself, the journal answers a source that asks. A file (file:) that is complete outlives
the program, and a restart of the host: the migration continues when its source comes
back, or with --continue. Only what was accepted before such a restart waits for its
source, or for ` + "`resolve`" + `, since somebody may have decided there meanwhile. Of a file
that was loaded in part nothing is left, and the next attempt starts over.`
)

// linkHelp is the part of the help texts about lost connections.
const linkHelp = `A connection that is lost is made anew, and the migration goes on where it was: before
the hand-over for --reconnect-for, and for a guest that stands still no longer than
mig-send's --resume-after; in doubt for ever. Within one host (unix:) a connection ends
with a process: that ends a migration of which the destination has no whole copy yet. A
whole copy waits for its source for ever, unless mig-recv was told of a --discard-ready-after, and
other migrations are refused meanwhile. Its source comes back with mig-send --continue, or
begins that migration again; mig-recv resolve ID --give-up drops the copy.`

// pastFlags say which of the migrations that processes before this one have left in
// --state-dir is gone on with.
type pastFlags struct {
	migration string
	goOn      bool
	id        migration.ID // of migration, once checked
}

func (p *pastFlags) add(cmd *cobra.Command, r role, complete cobra.CompletionFunc) {
	what := "`ID`, or its beginning, of a migration in --state-dir that is gone on with: tried again, or in doubt asked about"
	if r == sink {
		what = "`ID`, or its beginning, of a migration in --state-dir that is gone on with, if the devices still hold it"
	}
	f := cmd.Flags()
	f.StringVar(&p.migration, "migration", "", what)
	_ = cmd.RegisterFlagCompletionFunc("migration", complete)
	f.BoolVar(&p.goOn, "continue", false, "continue the migration that an earlier process left in --state-dir, or begin a new one if there is none")
}

func (p *pastFlags) check(s *stateFlags, role journal.Role) (err error) {
	switch {
	case p.migration != "" && p.goOn:
		return mistakef("--continue finds the one that was left", "--migration and --continue exclude each other")
	case p.goOn && s.folder() == "":
		return mistakef("name the folder with the journals with --state-dir", "--continue: there is no folder with journals")
	case p.migration == "":
		return nil
	}
	p.id, err = s.findMigration(role, "--migration ", p.migration)
	return err
}

// noJournal is the mistake of a --migration that was never here.
func (p *pastFlags) noJournal(s *stateFlags) error {
	return mistakef("`status` lists what is there", "--migration %v: there is no such journal in %s", p.id, s.folder())
}

// remains are migrations that processes before this one have left in --state-dir, by
// the newest records of their journals.
type remains []journal.Record

// settled are the records of which a run needs no more than the newest, and those that it asks
// for: there may be thousands. One that names a copy which may be the only one is not settled.
var settled = []handoff.Record{handoff.Owner, handoff.None, handoff.Aborted, handoff.Done, handoff.Running}

// survey is what --state-dir holds, of which each file is read once in a run: what is left,
// and what was removed meanwhile.
type survey struct {
	left     remains // all but most of the settled ones
	missing  error   // the folder cannot be read
	damaged  error   // the first file that cannot be read
	unpruned error   // why old journals are still there
}

// survey reads the journals of a side, and removes those of migrations that ended long ago.
// Settled ones that are asked for are in the result.
func (s *stateFlags) survey(role journal.Role, asked func(mig migration.ID, kind handoff.Record, written time.Time) bool) *survey {
	if s.found != nil {
		return s.found
	}
	s.found = &survey{}
	newest := map[handoff.Record]journal.Record{}
	before := time.Now().Add(-s.keep)
	for f, err := range journal.Scan(s.folder(), role) {
		switch {
		case f == nil:
			s.found.missing = err
			continue
		case err == nil:
			err = f.Trusted()
		}
		if err != nil {
			s.found.damaged = cmp.Or(s.found.damaged, err)
			continue
		}
		if kind, written, ok := f.Newest(); ok {
			old, again := newest[kind]
			switch {
			case !slices.Contains(settled, kind) || f.Sole() || asked != nil && asked(f.Mig(), kind, written):
				s.found.left = append(s.found.left, f.Last())
			case !again || written.After(old.Time):
				newest[kind] = f.Last()
			}
		}
		_, err := f.Prune(before)
		s.found.unpruned = cmp.Or(s.found.unpruned, err)
	}
	s.found.left = append(s.found.left, slices.Collect(maps.Values(newest))...)
	slices.SortFunc(s.found.left, func(a, b journal.Record) int { return bytes.Compare(a.Attempt.Mig[:], b.Attempt.Mig[:]) })
	return s.found
}

// remaining lists the journals of a side that a migration may be gone on with.
func (s *stateFlags) remaining(role journal.Role, asked func(migration.ID, handoff.Record, time.Time) bool) (remains, error) {
	if s.folder() == "" {
		return nil, nil
	}
	found := s.survey(role, asked)
	switch {
	case found.missing != nil:
		return nil, mistakef("name another folder with --state-dir", "%s", plainText(found.missing))
	case found.damaged != nil:
		return nil, s.unreadable(found.damaged)
	}
	return found.left, nil
}

// unreadable is a journal that says nothing, and so may say that devices must not start.
func (s *stateFlags) unreadable(err error) error {
	return mistakef("keep the file, and ask the other side's `status` what it says; use another --state-dir for other devices", "%s", plainText(err))
}

// at picks those whose newest record is one of these.
func (l remains) at(records ...handoff.Record) (picked remains) {
	for _, r := range l {
		if slices.Contains(records, r.Record) {
			picked = append(picked, r)
		}
	}
	return picked
}

// newest is the one that was written to last, nil for none.
func (l remains) newest() *journal.Record {
	var last *journal.Record
	for i, r := range l {
		if last == nil || r.Time.After(last.Time) {
			last = &l[i]
		}
	}
	return last
}

// one is the only one, nil for none.
func (l remains) one() (*journal.Record, error) {
	switch len(l) {
	case 0:
		return nil, nil
	case 1:
		return &l[0], nil
	}
	return nil, mistakef("say which with --migration ID; use another --state-dir for other devices", "%d migrations were left that could be gone on with: %v", len(l), l)
}

// String lists them for people.
func (l remains) String() string {
	list := make([]string, len(l))
	for i, r := range l {
		list[i] = fmt.Sprintf("%v (%v)", r.Attempt.Mig, r.Record)
	}
	return strings.Join(list, ", ")
}

// runs is the state of a device that was just opened, or has been reset.
func runs(now vfio.State) bool { return now == vfio.Running }

// stands is any other: somebody has kept the device as another process left it.
func stands(now vfio.State) bool { return now != vfio.Running }

// some reports whether a device is in such a state. One that does not tell is asked
// again by the engine, which then says why.
func some(devices []opened, fits func(vfio.State) bool) bool {
	return slices.ContainsFunc(devices, func(d opened) bool {
		now, err := d.State()
		return err == nil && fits(now)
	})
}

// all reports whether every device is in such a state, and there is one.
func all(devices []opened, fits func(vfio.State) bool) bool {
	return len(devices) > 0 && !slices.ContainsFunc(devices, func(d opened) bool {
		now, err := d.State()
		return err != nil || !fits(now)
	})
}

// decided ends a command line before the engine runs: what the journal says is the
// outcome.
type decided struct {
	report migration.Report
	err    error
}

func (d *decided) Error() string { return errorText(d.err) }

// errand is the migration that a run of mig-send is about.
type errand struct {
	attempt migration.Attempt
	journal handoff.Journal // nil until it is known which
	named   bool            // by --migration: somebody insists
	older   remains         // unfinished, and over by what was recorded later
}

func (e *errand) close() {
	if e == nil {
		return
	}
	if file, ok := e.journal.(io.Closer); ok {
		file.Close() // every record was synced when it was written
	}
}

// untouched is the outcome of a run that comes to nothing.
func (e *errand) untouched() migration.Outcome {
	if e.journal != nil && e.journal.Last().Record == handoff.Commit {
		return migration.InDoubt
	}
	return migration.Aborted
}

// announce says of an attempt that ended with its process that it is taken back. Of one
// that is in doubt the engine tells.
func (e *errand) announce(show *show) {
	if last := e.journal.Last(); last.Unfinished() {
		show.warn(fmt.Sprintf("going on with migration %v: attempt %d ended with its process, and attempt %d follows once the devices are taken back", last.Attempt.Mig, last.Attempt.Epoch, e.attempt.Epoch))
	}
}

// named opens the journal that --migration names. What that says may be the outcome,
// whatever the devices are.
func (s *sendFlags) named(e *errand) error {
	if err := s.state.check(); err != nil || s.past.migration == "" {
		return err
	}
	e.named = true
	return s.again(e, s.past.id)
}

// begin opens the journal of this run, if none is open yet.
func (s *sendFlags) begin(e *errand, devices []opened, failed error) error {
	if errors.Is(failed, vfio.ErrBusy) && e.journal == nil && !s.past.goOn {
		return failed // the journals are of the process that has the device
	}
	if err := s.find(e, devices); err != nil {
		return err
	}
	if failed != nil && e.untouched() == migration.InDoubt {
		return &decided{migration.Report{Outcome: migration.InDoubt, Attempt: e.attempt}, failed}
	}
	if failed != nil || e.journal != nil {
		return failed
	}
	e.attempt = migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	j, err := s.state.journals(journal.Source)(e.attempt.Mig, false)
	if err != nil {
		return mistakef("name another folder with --state-dir", "%s", plainText(err))
	}
	e.journal = j
	return nil
}

// find opens the journal of a migration that is gone on with, if one is.
func (s *sendFlags) find(e *errand, devices []opened) error {
	if e.journal != nil || s.state.folder() == "" {
		return nil
	}
	left, err := s.state.remaining(journal.Source, nil)
	if err != nil {
		return err
	}
	past, err := s.choose(left, devices)
	if err != nil || past == nil {
		return err
	}
	e.older = left.unfinished()
	return s.again(e, past.Attempt.Mig)
}

// choose picks the migration that is gone on with: nil for a new one. What is in doubt
// comes first, and devices over which this side has given up the right are never
// started over: the journal does not say which these are, but their states may, and
// the order of what was recorded.
func (s *sendFlags) choose(left remains, devices []opened) (*journal.Record, error) {
	doubt, open := left.at(handoff.Commit), left.stillOpen()
	goOn := s.past.goOn || all(devices, stands)
	switch {
	case goOn && len(doubt) > 0:
		return doubt.one()
	case goOn && len(open) > 0:
		return open.one()
	case goOn:
		return left.over(devices), nil
	case len(doubt) > 0:
		return nil, mistakef("--migration ID asks the destination, and --continue does if the devices are those; if that is dead, see `mig-send resolve --help`; use another --state-dir for other devices",
			"migration %v is in doubt, by %s", doubt[0].Attempt.Mig, s.state.path(journal.Source, doubt[0].Attempt.Mig))
	case len(open) > 0 && some(devices, stands):
		return nil, mistakef("--continue takes the devices back, if they are those; use another --state-dir for other devices",
			"some of the devices run and some do not, and migrations were left open: %v", open)
	}
	return nil, nil
}

// unfinished picks those whose devices the next start takes back: at OPEN most of the time.
func (l remains) unfinished() (picked remains) {
	for _, r := range l {
		if r.Unfinished() {
			picked = append(picked, r)
		}
	}
	return picked
}

// stillOpen picks those unfinished ones that nothing but others was recorded after. An
// older one is over: its devices ran again before a later migration could begin with
// them, and if that has given them up, whoever takes them back starts a second copy.
func (l remains) stillOpen() remains {
	open := l.unfinished()
	for _, r := range l {
		if !r.Unfinished() {
			open = open.since(r.Time)
		}
	}
	return open
}

// over is the migration that went well last, if the devices stand still since: its
// process was lost before it told.
func (l remains) over(devices []opened) *journal.Record {
	if last := l.newest(); last != nil && last.Record == handoff.Done && all(devices, stands) {
		return last
	}
	return nil
}

// again opens the journal of a migration that was begun before. One that cannot be
// read may say anything.
func (s *sendFlags) again(e *errand, mig migration.ID) error {
	e.attempt.Mig = mig
	doubt := &decided{report: migration.Report{Outcome: migration.InDoubt, Attempt: e.attempt}}
	j, err := journal.Open(s.state.folder(), journal.Options{Role: journal.Source, Mig: mig, Volatile: s.state.volatile, Existing: true})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.past.noJournal(&s.state)
	case err != nil:
		doubt.err = &transport.Fault{Code: transport.CodeBusy, Err: &stateError{err}}
		return doubt
	}
	last := j.Last()
	e.journal, e.attempt.Epoch = j, last.Attempt.Epoch+1
	doubt.report.Attempt, doubt.report.Peer = last.Attempt, last.PeerID
	switch err := handoff.MayOpen(last, e.attempt); {
	case errors.Is(err, handoff.ErrInDoubt): // the engine asks the destination
		e.attempt = last.Attempt
		return nil
	case errors.Is(err, handoff.ErrGone):
		doubt.report.Outcome, doubt.report.Warnings = migration.Committed, []string{err.Error() + ": nothing was sent"}
		if len(e.older) > 0 {
			doubt.report.Warnings = append(doubt.report.Warnings, fmt.Sprintf("migration %v is older: if the devices are of that one, say --migration", e.older))
		}
	case err != nil:
		doubt.err = &transport.Fault{Code: transport.CodeBusy, Err: err}
	default:
		return nil
	}
	return doubt
}

// path is the file of a journal.
func (s *stateFlags) path(role journal.Role, mig migration.ID) string {
	return filepath.Join(s.folder(), journal.Name(role, mig))
}
