package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/continuing"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
)

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

// soleMeanings are for records beside which the copy of the destination may be the only one
// that works.
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

// jsonJournal is a journal in the output of `status --json`.
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
	Forced    uint64            `json:"forced_attempt,omitempty"` // the attempt of the decision; later attempts do not undo it
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
not shown if it belongs to another user and the kernel does not list its lock.`, continuing.LeastPrefix),
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeMigration,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.status(cmd, args) },
	}
	cmd.Flags().BoolVar(&c.json, "json", false, "one JSON object per line")
	return cmd
}

func (c *common) status(cmd *cobra.Command, ids []string) error {
	dir := c.state.Directory()
	if dir == "" {
		return ui.Mistakef("name the directory with --state-dir", "there is no directory with journals")
	}
	role := c.Role
	if len(ids) > 0 {
		return c.statusOf(cmd, ids[0])
	}
	var list []jsonJournal
	var damaged error
	for f, err := range journal.Scan(dir, role) {
		switch {
		case f == nil:
			return ui.Mistakef("name the directory with --state-dir", "%s", ui.PlainText(err))
		case err != nil:
			damaged = &transport.Fault{Code: transport.CodeDevice, Err: &ui.JournalError{Err: err}}
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
	role := c.Role
	mig, err := c.state.FindMigration(role, "migration ", id)
	if err != nil {
		return err
	}
	path := c.state.Path(role, mig)
	all, devices, err := journal.ReadWithDevices(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(all) == 0:
		return ui.Mistakef("`status` lists what is there", "migration %v: there is no such journal in %s", mig, c.state.Directory())
	case err != nil:
		return &transport.Fault{Code: transport.CodeDevice, Err: &ui.JournalError{Err: err}}
	}
	return c.printJournals(cmd, []jsonJournal{newestRecord(role, path, all, devices)})
}

// newestRecord is the newest record of a journal, with what no later one undoes.
func newestRecord(role journal.Role, path string, all []journal.Record, devices []journal.Device) jsonJournal {
	r := all[len(all)-1]
	j := jsonJournal{
		Migration: r.Attempt.Mig.String(), Devices: devices, Attempt: r.Attempt.Epoch, Record: r.Record.String(),
		Meaning: meaning(role, r.Entry), Since: r.Time.UTC().Format(time.RFC3339), Bytes: r.Why.Bytes, Fault: ui.OneLine(r.Why.Text), Peer: ui.Known(r.PeerID),
		Side: role.String(), Journal: r.Journal.String(), File: filepath.Clean(path),
	}
	for _, past := range all {
		text := ui.OneLine(past.Why.Text)
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

// notes follow the meaning of a record.
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
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", j.Migration, j.Attempt, j.Record, j.Since, peer, process, cmp.Or((&continuing.Recorded{Devices: j.Devices}).About(), "-"), j.Meaning+j.notes())
	}
	if err := t.Flush(); err != nil {
		return &transport.Fault{Code: transport.CodeDevice, Err: err}
	}
	return nil
}
