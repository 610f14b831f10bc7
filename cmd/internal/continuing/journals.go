// Package continuing finds the migration that a program continues after a crash, by the journals
// in --state-dir, and refuses devices that another migration may still need.
package continuing

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// What a program does that is started again, by side. The first half is of both.
const (
	continueHelp = `After a crash, start the program again with the same arguments and --continue. It
finds the migration of these devices in --state-dir, by the names and addresses in its
journal, and begins a new one if there is none. --migration ID names the migration.
`
	SendContinueHelp = continueHelp + `In doubt (COMMIT is recorded), mig-send asks the destination. A migration that was
interrupted before COMMIT is tried again, once the devices have resumed. If the devices
run at the destination and none runs here, mig-send sends nothing and exits with 0.
Without --continue, mig-send begins a new migration. It refuses that while a migration of
one of the devices is in doubt, and if one was interrupted and a device does not run.`
	RecvContinueHelp = continueHelp + `A device of fd:N outlives mig-recv only while another process has it open; a sim: with
keep=PATH and a complete file: outlive it, too. mig-recv waits for the source of a
complete copy (READY), and starts the devices that it had accepted, or that ` + "`resolve`" + ` has
decided about. A device of vfio: is reset when its process ends: mig-recv records that, and
answers its source by the record. For a file that is complete, mig-recv continues without
the flag, too, when the source comes back. After a restart of the host, an accepted copy
starts only when its source asks for it, or by ` + "`resolve`" + `: a person may have decided at the
source meanwhile. Without --continue, mig-recv refuses devices that may hold the copy of an
earlier migration. A file that was loaded in part is discarded.`
)

// LinkHelp is the part of the help texts about lost connections.
const LinkHelp = `If the connection is lost, the source dials again, and the migration goes on where it was:
before COMMIT for --reconnect-for, and while the guest is paused for --resume-after at
most; in doubt without a limit. Over unix: a connection ends only with a process. That
ends the migration, unless the destination has the complete copy. A complete copy
waits for its source without a limit, or for --discard-ready-after; mig-recv refuses
other migrations meanwhile. The source comes back with mig-send --continue, or
begins that migration again; mig-recv resolve ID --give-up discards the copy.`

// Flags say which migration in --state-dir continues.
type Flags struct {
	migration string
	find      bool         // the one of these devices
	id        migration.ID // of migration, once checked
}

// Add registers the flags. complete offers the ids of migrations.
func (c *Flags) Add(cmd *cobra.Command, r journal.Role, complete cobra.CompletionFunc) {
	what := "`ID`, or its beginning, of the migration in --state-dir that continues: the source tries again, or asks in doubt"
	if r == journal.Destination {
		what = "`ID`, or its beginning, of the migration in --state-dir that continues, if the devices still hold it"
	}
	f := cmd.Flags()
	f.StringVar(&c.migration, "migration", "", what)
	_ = cmd.RegisterFlagCompletionFunc("migration", complete)
	f.BoolVar(&c.find, "continue", false, "continue the migration of these devices that an earlier process left in --state-dir, or begin a new one")
}

// Check refuses flags that contradict each other, and finds the id that --migration abbreviates.
func (c *Flags) Check(s *State, role journal.Role) (err error) {
	switch {
	case c.migration != "" && c.find:
		return ui.Mistakef("--continue finds the migration of these devices", "--migration and --continue exclude each other")
	case c.find && s.Directory() == "":
		return ui.Mistakef("name the directory with the journals with --state-dir", "--continue: there is no directory with journals")
	case c.migration == "":
		return nil
	}
	c.id, err = s.FindMigration(role, "--migration ", c.migration)
	return err
}

// noJournal is the mistake of a --migration that was never here.
func (c *Flags) noJournal(s *State) error {
	return ui.Mistakef("`status` lists what is there", "--migration %v: there is no such journal in %s", c.id, s.Directory())
}

// Recorded is the newest record of a journal, with the devices that the journal is about.
type Recorded struct {
	journal.Record
	Devices []journal.Device
}

// About lists the devices, for people.
func (r *Recorded) About() string {
	list := make([]string, len(r.Devices))
	for i, d := range r.Devices {
		list[i] = d.String()
	}
	return strings.Join(list, ", ")
}

// journals are those in --state-dir that may be about the devices of the command line.
type journals []Recorded

// settled are the records whose newest is enough for a run: there may be
// thousands. A record that names a copy which may be the only one is not settled.
var settled = []handoff.Record{handoff.Owner, handoff.None, handoff.Aborted, handoff.Done, handoff.Running}

// survey is what --state-dir holds. A run reads each file once.
type survey struct {
	found    journals // all but most of the settled ones
	missing  error    // the directory cannot be read
	damaged  error    // the first file that cannot be read
	unpruned error    // why old journals are still there
}

// survey reads the journals of a side, and removes those of migrations that ended long ago.
func (s *State) survey(role journal.Role) *survey {
	if s.surveyed != nil {
		return s.surveyed
	}
	s.surveyed = &survey{}
	newest := map[handoff.Record]Recorded{}
	before := time.Now().Add(-s.Keep)
	for f, err := range journal.Scan(s.Directory(), role) {
		switch {
		case f == nil:
			s.surveyed.missing = err
			continue
		case err == nil:
			err = f.Trusted()
		}
		if err != nil {
			s.surveyed.damaged = cmp.Or(s.surveyed.damaged, err)
			continue
		}
		s.surveyed.add(f, s.Devices, newest)
		_, err := f.Prune(before)
		s.surveyed.unpruned = cmp.Or(s.surveyed.unpruned, err)
	}
	s.surveyed.found = append(s.surveyed.found, slices.Collect(maps.Values(newest))...)
	slices.SortFunc(s.surveyed.found, func(a, b Recorded) int { return bytes.Compare(a.Attempt.Mig[:], b.Attempt.Mig[:]) })
	return s.surveyed
}

// add takes a journal that may be about the devices: into newest where its record is settled.
// A journal without an attempt is about none.
func (s *survey) add(f *journal.Found, devices []journal.Device, newest map[handoff.Record]Recorded) {
	last, ok := f.Newest()
	if !ok || last.Attempt.Epoch == 0 {
		return
	}
	list := f.Devices()
	if !journal.Concerns(list, devices) {
		return
	}
	old, again := newest[last.Record]
	switch {
	case !slices.Contains(settled, last.Record) || last.Sole:
		s.found = append(s.found, Recorded{f.Last(), list})
	case !again || last.Time.After(old.Time):
		newest[last.Record] = Recorded{f.Last(), list}
	}
}

// ofDevices lists the journals that may be about the devices of the command line.
func (s *State) ofDevices(role journal.Role) (journals, error) {
	if s.Directory() == "" {
		return nil, nil
	}
	all := s.survey(role)
	switch {
	case all.missing != nil:
		return nil, ui.Mistakef("name another directory with --state-dir", "%s", ui.PlainText(all.missing))
	case all.damaged != nil:
		return nil, s.unreadable(all.damaged)
	}
	return all.found, nil
}

// unreadable is a journal that cannot be read, and so may say that devices must not start.
func (s *State) unreadable(err error) error {
	return ui.Mistakef("keep the file, and ask the other side's `status` what it says; use another --state-dir for other devices", "%s", ui.PlainText(err))
}

// at picks those whose newest record is one of these.
func (l journals) at(records ...handoff.Record) (picked journals) {
	for _, r := range l {
		if slices.Contains(records, r.Record.Record) {
			picked = append(picked, r)
		}
	}
	return picked
}

// since picks those that were written to after a time.
func (l journals) since(t time.Time) (picked journals) {
	for _, r := range l {
		if r.Time.After(t) {
			picked = append(picked, r)
		}
	}
	return picked
}

// newest is the one that was written to last, nil for none.
func (l journals) newest() *Recorded {
	var last *Recorded
	for i, r := range l {
		if last == nil || r.Time.After(last.Time) {
			last = &l[i]
		}
	}
	return last
}

// only is the only one, nil for none.
func (l journals) only() (*Recorded, error) {
	switch len(l) {
	case 0:
		return nil, nil
	case 1:
		return &l[0], nil
	}
	return nil, ui.Mistakef("name one of them with --migration ID", "%d migrations of these devices could continue: %v", len(l), l)
}

// String lists them for people.
func (l journals) String() string {
	list := make([]string, len(l))
	for i, r := range l {
		list[i] = fmt.Sprintf("%v (%v)", r.Attempt.Mig, r.Record.Record)
	}
	return strings.Join(list, ", ")
}

// sameDevices refuses to continue a migration that is about some of the devices, and not
// exactly about them.
func (s *State) sameDevices(r *Recorded) error {
	if r == nil || journal.AreThese(r.Devices, s.Devices) {
		return nil
	}
	here := Recorded{Devices: s.Devices}
	return ui.Mistakef("give --device for each of them, or use another --state-dir for other devices",
		"migration %v, which is recorded as %v, is about %s, and the command line about %s", r.Attempt.Mig, r.Record.Record, r.About(), here.About())
}

// Path is the file of a journal.
func (s *State) Path(role journal.Role, mig migration.ID) string {
	return filepath.Join(s.Directory(), journal.Name(role, mig))
}

// Decided ends a command line before the engine runs: the journal has the outcome.
type Decided struct {
	Report migration.Report
	Err    error
}

// Error implements error.
func (d *Decided) Error() string { return ui.ErrorText(d.Err) }

// isRunning is the state of a device that was just opened, or has been reset.
func isRunning(now vfio.State) bool { return now == vfio.Running }

// isNotRunning is the state of a device that another process holds, as a program before this
// one has left it.
func isNotRunning(now vfio.State) bool { return now != vfio.Running }

// anyIs reports whether a device is in such a state. A device whose state cannot be read is
// not: the engine reads it again, and reports why.
func anyIs(devices []input.Opened, fits func(vfio.State) bool) bool {
	return slices.ContainsFunc(devices, func(d input.Opened) bool {
		now, err := d.State()
		return err == nil && fits(now)
	})
}

// allAre reports whether every device is in such a state, and there is one.
func allAre(devices []input.Opened, fits func(vfio.State) bool) bool {
	return len(devices) > 0 && !slices.ContainsFunc(devices, func(d input.Opened) bool {
		now, err := d.State()
		return err != nil || !fits(now)
	})
}
