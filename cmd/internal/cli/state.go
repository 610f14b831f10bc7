package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// stateHelp is the part of the help texts about the journal.
const stateHelp = `With --state-dir, the program writes each decision about a migration to a journal in
that directory before it announces it. Neither a crash of the program nor one of the host
loses the decision; ` + "`status`" + ` shows the journals. Without --state-dir (and without systemd's
StateDirectory) decisions are lost with the process. --expire-state-after removes the journal
of a migration that has ended for both sides; every other journal stays. The program makes
DIR if it is missing, but no directory above it. DIR has to belong to this user or root, and
no other user may be able to write it, or a directory on the way to it. step-times.json
there has the times that hooks and a VMM's answers took in the last migration.`

// stateFlags say where the journals are.
type stateFlags struct {
	dir      string
	volatile bool
	keep     time.Duration
	devices  []journal.Device // of the command line, for the journals; none for other commands
	surveyed *survey          // nil until the journals were read
}

// keepState is how long an ended migration is remembered.
const keepState = 30 * 24 * time.Hour

func (s *stateFlags) add(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&s.dir, "state-dir", "", "`DIR` for the journals, which outlive a crash (default $STATE_DIRECTORY, else none are written)")
	f.BoolVar(&s.volatile, "volatile-state", false, "accept a --state-dir on a file system that a restart of the host empties")
	_ = cmd.MarkPersistentFlagDirname("state-dir")
}

// directory is where the journals are, "" for nowhere. systemd may name several.
func (s *stateFlags) directory() string {
	if s.dir != "" {
		return s.dir
	}
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return first
}

// journals opens the journal of one side of a migration: one that outlives the process, if
// there is a directory for it.
func (s *stateFlags) journals(role journal.Role) handoff.Journals {
	dir := s.directory()
	if dir == "" {
		return handoff.InMemory
	}
	return func(mig migration.ID, existing bool) (handoff.Journal, error) {
		j, err := journal.Open(dir, journal.Options{Role: role, Mig: mig, Volatile: s.volatile, Existing: existing, Devices: s.devices})
		if err != nil {
			return nil, &stateError{err}
		}
		return j, nil
	}
}

// times are those of the steps of the last run, nil where there is no directory for them.
func (s *stateFlags) times() handoff.StepTimes {
	if dir := s.directory(); dir != "" {
		return journal.NewTimes(dir)
	}
	return nil
}

// check refuses a directory that journals cannot rely on.
func (s *stateFlags) check() error {
	dir := s.directory()
	if dir == "" {
		return nil
	}
	if err := journal.Check(dir, s.volatile); err != nil {
		e := &stateError{err}
		return mistakef(e.hint(), "%s", plainText(err))
	}
	return nil
}

// prune removes this side's journals of migrations that ended long ago. A failure is no
// reason to refuse a new migration: warn reports it.
func (s *stateFlags) prune(role journal.Role, warn func(text string)) {
	if s.directory() == "" {
		return
	}
	found := s.survey(role)
	if err := cmp.Or(found.missing, found.unpruned); err != nil {
		warn(plainText(err))
	}
}

// stateError is why a journal cannot be used.
type stateError struct{ error }

func (e *stateError) Unwrap() error { return e.error }

func (e *stateError) hint() string {
	switch {
	case errors.Is(e.error, journal.ErrVolatile):
		return "name a directory on a disk with --state-dir; or say --volatile-state, if losing what was decided with the host is acceptable"
	case errors.Is(e.error, journal.ErrBusy):
		held, ok := errors.AsType[*lockfile.HeldError](e.error)
		if !ok {
			held = &lockfile.HeldError{}
		}
		return "that process works on this migration: wait for it, or " + endFirst(held.PID)
	case errors.Is(e.error, journal.ErrDamaged):
		return "keep the file, and ask the other side's `status` what it says"
	case errors.Is(e.error, safefile.ErrUntrusted):
		return "run as the user that owns what is named, or name a directory of this user's with --state-dir"
	case errors.Is(e.error, fs.ErrNotExist):
		return "make that directory first, or correct --state-dir"
	}
	return "name a directory that this user may write with --state-dir"
}

// meanings say what the newest record of a journal means for the devices.
var meanings = map[journal.Role]map[handoff.Record]string{
	journal.Source: {
		handoff.Owner:  "the devices are this side's",
		handoff.Open:   "the devices are this side's; an attempt is open, or ended with its process: the next takes them back",
		handoff.Commit: "IN DOUBT: start nothing here before the destination has answered: mig-send asks it, or --migration does",
		handoff.Done:   "the devices run at the destination",
		handoff.Forced: "somebody has decided that the devices are this side's",

		handoff.ResumeFailed: "the devices are this side's, and could not be resumed; the destination may hold the only copy that works: see `mig-send resolve --help`",
	},
	journal.Destination: {
		handoff.None:    "no attempt was ever opened",
		handoff.Open:    "nothing runs here; an attempt is open, or ended with its process",
		handoff.Ready:   "a whole copy waits here for the source's word, or has ended with its process",
		handoff.Accept:  "the devices are this side's: they run, or were about to",
		handoff.Running: "the devices run here; the source may not know yet",
		handoff.Aborted: "nothing runs here, and this attempt never will",
		handoff.Done:    "the devices run here, and the source knows",
		handoff.Forced:  "somebody has decided that the devices run here",
		handoff.Lost:    "LOST: the devices were accepted here, and do not hold it any more: somebody has to decide, here or at the source",
	},
}

// What else a record means where the destination's copy may be the only one that works.
var soleMeanings = map[handoff.Record]string{
	handoff.Owner:  "the devices are this side's, and were not all resumed, as far as is known; the destination may hold a complete copy: the next attempt takes them back",
	handoff.Commit: "IN DOUBT: a person has decided that the destination runs its copy: mig-send --migration tells it so; start nothing here",
}

// meaning is what an entry means for the devices.
func meaning(role journal.Role, e handoff.Entry) string {
	if text, ok := soleMeanings[e.Record]; ok && e.Sole {
		return text
	}
	return meanings[role][e.Record]
}

// jsonJournal is what `status --json` says of a journal.
type jsonJournal struct {
	Migration string            `json:"migration"`
	Devices   []journal.Device  `json:"devices,omitempty"`
	Attempt   uint64            `json:"attempt"`
	Record    string            `json:"record"`
	Meaning   string            `json:"meaning"`
	Since     string            `json:"since"`
	Bytes     uint64            `json:"bytes"`
	Fault     string            `json:"fault,omitempty"`
	Decided   string            `json:"decided,omitempty"`        // by a person, as with FORCED: by whom, and why
	Forced    uint64            `json:"forced_attempt,omitempty"` // of which attempt that is; later ones do not undo it
	Alarm     string            `json:"alarm,omitempty"`          // both sides may run: what the other one has recorded
	Peer      *transport.PeerID `json:"peer,omitempty"`
	Side      string            `json:"side"`
	PID       int               `json:"pid,omitempty"` // of the process that works on it
	Journal   string            `json:"journal"`
	File      string            `json:"file"`
}

func statusCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [ID]",
		Short: "Show what the journals in --state-dir say",
		Long: fmt.Sprintf(`Show what the journals in --state-dir say: for each migration its newest record,
since when that stands, who the peer is, which process works on the migration, which
devices it is about, and what the record means for them. With ID it is about one migration: that is the
migration's id, or the first %d or more digits of it if no other one begins so.
Nothing is changed, and a process that works on a migration is not disturbed. It is
not shown if it belongs to another user and the kernel does not list its lock.`, leastPrefix),
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeMigration,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.status(cmd, args) },
	}
	cmd.Flags().BoolVar(&c.json, "json", false, "one JSON object per line")
	return cmd
}

func (c *common) status(cmd *cobra.Command, ids []string) error {
	dir := c.state.directory()
	if dir == "" {
		return mistakef("name the directory with --state-dir", "there is no directory with journals")
	}
	role := c.role.journal()
	if len(ids) > 0 {
		return c.statusOf(cmd, ids[0])
	}
	var list []jsonJournal
	var damaged error
	for f, err := range journal.Scan(dir, role) {
		switch {
		case f == nil:
			return mistakef("name the directory with --state-dir", "%s", plainText(err))
		case err != nil:
			damaged = &transport.Fault{Code: transport.CodeDevice, Err: &stateError{err}}
			continue
		}
		if all := f.Records(); len(all) > 0 {
			list = append(list, newestRecord(role, f.Path(), all, f.Devices()))
		}
	}
	slices.SortFunc(list, func(a, b jsonJournal) int { return cmp.Compare(a.File, b.File) })
	if err := c.printJournals(cmd, list); err != nil {
		return err
	}
	return damaged
}

// statusOf shows one journal.
func (c *common) statusOf(cmd *cobra.Command, id string) error {
	role := c.role.journal()
	mig, err := c.state.findMigration(role, "migration ", id)
	if err != nil {
		return err
	}
	path := c.state.path(role, mig)
	all, devices, err := journal.ReadWithDevices(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(all) == 0:
		return mistakef("`status` lists what is there", "migration %v: there is no such journal in %s", mig, c.state.directory())
	case err != nil:
		return &transport.Fault{Code: transport.CodeDevice, Err: &stateError{err}}
	}
	return c.printJournals(cmd, []jsonJournal{newestRecord(role, path, all, devices)})
}

// newestRecord is the newest record of a journal, with what no later one undoes.
func newestRecord(role journal.Role, path string, all []journal.Record, devices []journal.Device) jsonJournal {
	r := all[len(all)-1]
	j := jsonJournal{
		Migration: r.Attempt.Mig.String(), Devices: devices, Attempt: r.Attempt.Epoch, Record: r.Record.String(),
		Meaning: meaning(role, r.Entry), Since: r.Time.UTC().Format(time.RFC3339), Bytes: r.Why.Bytes, Fault: oneLine(r.Why.Text), Peer: known(r.PeerID),
		Side: role.String(), Journal: r.Journal.String(), File: filepath.Clean(path),
	}
	for _, past := range all {
		text := oneLine(past.Why.Text)
		switch {
		case past.Why.Code == transport.CodeBothMayRun:
			j.Alarm = text
		case past.Record == handoff.Forced:
			j.Decided, j.Forced = text, past.Attempt.Epoch
		}
	}
	if r.Record == handoff.Commit && r.Sole && j.Forced == 0 {
		j.Fault, j.Decided = "", j.Fault
	}
	if r.Why.Code == transport.CodeBothMayRun || r.Record == handoff.Forced {
		j.Fault = ""
	}
	return j
}

// notes are what is said behind the meaning of a record.
func (j jsonJournal) notes() string {
	var list []string
	if j.Alarm != "" {
		list = append(list, "BOTH SIDES MAY RUN: "+j.Alarm)
	}
	if j.Fault != "" {
		list = append(list, j.Fault)
	}
	switch {
	case j.Forced != 0 && j.Forced != j.Attempt:
		list = append(list, fmt.Sprintf("%v, attempt %d, by %s", handoff.Forced, j.Forced, j.Decided))
	case j.Decided != "":
		list = append(list, j.Decided)
	}
	if list == nil {
		return ""
	}
	return " (" + strings.Join(list, "; ") + ")"
}

func (c *common) printJournals(cmd *cobra.Command, list []jsonJournal) error {
	files := make([]string, len(list))
	for i, j := range list {
		files[i] = j.File
	}
	for i, holders := 0, lockfile.Holders(files...); i < len(list); i++ {
		list[i].PID = holders[list[i].File]
	}
	if c.json {
		out := json.NewEncoder(cmd.OutOrStdout())
		for _, j := range list {
			if err := out.Encode(j); err != nil {
				return &transport.Fault{Code: transport.CodeDevice, Err: err}
			}
		}
		return nil
	}
	if len(list) == 0 {
		return say(cmd, "no migrations")
	}
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "migration\tattempt\trecord\tsince\tpeer\tprocess\tdevices\tmeaning")
	for _, j := range list {
		peer, process := "-", "-"
		if j.Peer != nil {
			peer = j.Peer.Short()
		}
		if j.PID != 0 {
			process = strconv.Itoa(j.PID)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", j.Migration, j.Attempt, j.Record, j.Since, peer, process, cmp.Or((&recorded{devices: j.Devices}).about(), "-"), j.Meaning+j.notes())
	}
	if err := t.Flush(); err != nil {
		return &transport.Fault{Code: transport.CodeDevice, Err: err}
	}
	return nil
}
