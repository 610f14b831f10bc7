package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/continuing"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// resolveFlags are what a person vouches for.
type resolveFlags struct {
	*common
	here    bool
	fenced  bool
	why     string
	confirm string
	other   bool // the other decision of this side
	witness doubtFlags
}

// decision is a decision that a side may record, by its flag.
type decision struct {
	flag, usage, records, after string
	ask                         string // what the typed name of the host is the answer to
	record                      func(last handoff.Entry, text string) (handoff.Entry, bool)
	next                        string // the next step once it is recorded; %s is the migration
}

// notHere is what a name of this host vouches for.
const notHere = "if nothing of it runs here"

// others are the decisions against this side. They need no fencing.
var others = map[journal.Role]decision{
	journal.Source: {flag: "commit-there", usage: "in the place of --resume-here: the destination is to run the copy that it holds, since the devices could not be resumed here",
		records: "OPEN or RESUME_FAILED", ask: notHere, record: handoff.CommitThere,
		next: "`mig-send --migration %s` and the other arguments again: it tells the destination, whose mig-recv must run"},
	journal.Destination: {flag: "give-up", usage: "in the place of --run-here: the devices do not run here, and never will",
		records: "READY, ACCEPT, LOST or FORCED", ask: notHere, record: handoff.GiveUp},
}

func (d decision) use(other decision) string {
	return fmt.Sprintf("resolve ID --%s --peer-is-fenced --why TEXT | resolve ID --%s --why TEXT", d.flag, other.flag)
}

// fenced is what a name of this host vouches for.
const fenced = "if the other side cannot run the devices"

var decisions = map[journal.Role]decision{
	journal.Source: {flag: "resume-here", usage: "the devices are to run here, where they came from", records: "COMMIT", ask: fenced, record: handoff.Force,
		after: "`resolve` starts nothing: that is for whoever starts guests here.\n\nWith --commit-there it is the other way round: the destination runs its copy. That is for\ndevices that could not be resumed after the destination had been sent everything: it\nstill holds its copy, and no start of mig-send ends that. It is possible while the\nnewest record is OPEN, or RESUME_FAILED, which says that no device of the migration has\nrun again here; OWNER does not say that. It records COMMIT, and is not taken back: the\nnext `mig-send --migration ID` tells the destination. Vouch for it only if nothing of\nthe migration runs here, the guest above all: else there will be two running copies."},
	journal.Destination: {flag: "run-here", usage: "the devices are to run here, where their copy is, or was", records: "READY, ACCEPT or LOST", ask: fenced, record: handoff.Force,
		after: "`resolve` starts nothing: that is for whoever starts guests here, or for a mig-recv that\ngoes on with the migration (--continue, --migration ID, or devices that all are in STOP)\nand finds its copy in devices that somebody else has kept open, or in files.\n\nWith --give-up it is the other way round: the devices do not run here, and never will.\nThe source, when it asks, is told so and takes them back; what files have kept is\nremoved by the next mig-recv. That is for a copy that is of no use any more (READY,\nACCEPT, LOST or FORCED), and no other side needs to be dead. If something of it does run\nhere, there will be two running copies; if the source is dead, there will be none."},
}

func (d decision) long() string {
	return fmt.Sprintf(`Decide a migration that is in doubt: the devices are to run here. It is for a person
who knows what the two sides cannot find out, that the other one is dead, or kept
from its devices (powered off, cut off from network and storage). If that is not so,
there will be two running copies.

ID is the migration's, or the first %d or more digits of it if no other one begins so.
It is possible while this side's newest record is %s, and no program
works on the migration: one that waits for an answer is ended first. It shows what the
journal knows, asks for the name of this host, so that it is not done on the wrong one,
and writes the record FORCED of the next attempt, with who has decided, when and why.
When the other side comes back, it finds that its attempt is older, runs nothing, and
shows both records.

%s`, continuing.LeastPrefix, d.records, d.after)
}

func resolveCommand(c *common) *cobra.Command {
	r := &resolveFlags{common: c}
	d, other := decisions[c.Role], others[c.Role]
	cmd := &cobra.Command{
		Use:   d.use(other),
		Short: "Decide a migration that is in doubt",
		Long:  d.long(),
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return r.run(cmd, args[0]) },

		ValidArgsFunction: c.completeMigration,
	}
	f := cmd.Flags()
	f.BoolVar(&r.here, d.flag, false, d.usage)
	f.BoolVar(&r.fenced, "peer-is-fenced", false, "the other side is dead, or kept from its devices")
	f.StringVar(&r.why, "why", "", "`TEXT` for those who will ask")
	f.StringVar(&r.confirm, "confirm", "", "`HOSTNAME` of this host, for scripts; else it is asked for")
	f.BoolVar(&r.other, other.flag, false, other.usage)
	if c.Role == journal.Destination {
		f.StringVar(&r.witness.url, "witness", "", "`URL` of the witness that the migration has, if it has one")
	}
	return cmd
}

func (r *resolveFlags) run(cmd *cobra.Command, id string) error {
	d, other := decisions[r.Role], others[r.Role]
	switch {
	case r.other && r.here:
		return ui.Mistakef("", "--%s and --%s exclude each other", other.flag, d.flag)
	case r.other && strings.TrimSpace(r.why) == "":
		return ui.Mistakef("", "say --why: it is kept in the journal")
	case r.other:
		return r.decide(cmd, id, other)
	case !r.here:
		return ui.Mistakef("", "say --%s: %s", d.flag, d.usage)
	case !r.fenced:
		return ui.Mistakef("fence the other side first", "say --peer-is-fenced, if that is so: the other side is dead, or kept from its devices")
	case strings.TrimSpace(r.why) == "":
		return ui.Mistakef("", "say --why: it is kept in the journal")
	}
	return r.decide(cmd, id, d)
}

// decide records the decision.
func (r *resolveFlags) decide(cmd *cobra.Command, id string, d decision) error {
	j, err := r.open(id)
	if err != nil {
		return err
	}
	defer j.Close()
	decided, ok := d.record(j.Last(), r.signature())
	if !ok {
		return ui.Mistakef(fmt.Sprintf("`%s status` shows it", r.Program), "migration %v is not in doubt here: its record is %v, and only %s can be decided (%s)",
			j.Last().Attempt.Mig, j.Last().Record, d.records, meaning(r.Role, j.Last()))
	}
	if len(decided.Why.Text) > journal.MaxText {
		return ui.Mistakef("shorten it", "--why is %d bytes too long for the journal", len(decided.Why.Text)-journal.MaxText)
	}
	if err := r.show(cmd, j); err != nil {
		return err
	}
	if err := r.confirmed(cmd.InOrStdin(), cmd.ErrOrStderr(), d.ask); err != nil {
		return err
	}
	if decided.Record == handoff.Forced {
		if err := r.win(j.Last()); err != nil {
			return err
		}
	}
	if err := j.Append(decided); err != nil {
		return &transport.Fault{Code: transport.CodeInternal, Err: &ui.JournalError{Err: err}}
	}
	if err := say(cmd, fmt.Sprintf("recorded %v, attempt %d: %s", decided.Record, decided.Attempt.Epoch, meaning(r.Role, decided))); err != nil || d.next == "" {
		return err
	}
	return say(cmd, "next: "+fmt.Sprintf(d.next, decided.Attempt.Mig))
}

// open opens the journal. It fails while another process has it open.
func (r *resolveFlags) open(id string) (*journal.Journal, error) {
	mig, err := r.state.FindMigration(r.Role, "migration ", id)
	if err != nil {
		return nil, err
	}
	dir := r.state.Directory()
	j, err := journal.Open(dir, journal.Options{Role: r.Role, Mig: mig, Volatile: r.state.Volatile, Existing: true})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ui.Mistakef(fmt.Sprintf("`%s status` lists what is there", r.Program), "migration %v: there is no such journal in %s", mig, dir)
	case errors.Is(err, journal.ErrBusy):
		path := r.state.Path(r.Role, mig)
		return nil, &transport.Fault{Code: transport.CodeBusy, Err: &workedOn{r.Program, mig, lockfile.Holder(path)}}
	case err != nil:
		return nil, &transport.Fault{Code: transport.CodeBusy, Err: &ui.JournalError{Err: err}}
	}
	return j, nil
}

// signature is who decides, and why. When is in the record itself.
func (r *resolveFlags) signature() string {
	who := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		who = fmt.Sprintf("%s (%s)", u.Username, who)
	}
	return who + ": " + ui.OneLine(strings.TrimSpace(r.why))
}

// heard has what a record of one side implies for the other.
var heard = map[handoff.Record]string{
	handoff.Open:         "whether the destination holds a whole copy is not recorded here; it runs nothing that it was not told to",
	handoff.Commit:       "the destination had said READY: it holds a whole copy, and may have been told to run it",
	handoff.Ready:        "the source had said that all is sent; that it has given its devices up (COMMIT) is not recorded here",
	handoff.Accept:       "the source had given its devices up (COMMIT); they were accepted here, and run, or were about to",
	handoff.ResumeFailed: "the source had sent everything: the destination may hold a whole copy, and was not told to run it",

	handoff.Lost: "the source had given its devices up (COMMIT); they were accepted here, and may have run",
}

// show prints the records of this side, and what they imply for the other.
func (r *resolveFlags) show(cmd *cobra.Command, j *journal.Journal) error {
	last := j.Last()
	all, devices, err := journal.ReadWithDevices(r.state.Path(r.Role, last.Attempt.Mig))
	if err != nil {
		return &transport.Fault{Code: transport.CodeDevice, Err: &ui.JournalError{Err: err}}
	}
	out := cmd.ErrOrStderr()
	fmt.Fprintf(out, "migration %v, attempt %d, as this side (%v) has recorded it in journal %v:\n", last.Attempt.Mig, last.Attempt.Epoch, r.Role, j.ID())
	if devices != nil {
		fmt.Fprintf(out, "  devices: %s\n", (&continuing.Recorded{Devices: devices}).About())
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range all {
		if e.Attempt == last.Attempt {
			fmt.Fprintf(t, "  %s\t%v\t%d bytes\t%s\n", e.Time.UTC().Format(time.RFC3339), e.Record, e.Why.Bytes, ui.OneLine(e.Why.Text))
		}
	}
	if err := t.Flush(); err != nil {
		return &transport.Fault{Code: transport.CodeDevice, Err: err}
	}
	other := "the other side is not known by an identity"
	if last.PeerID != (transport.PeerID{}) {
		other = "the other side is " + last.PeerID.String()
	}
	if last.PeerJournal != (migration.JournalID{}) {
		other += ", its journal " + last.PeerJournal.String()
	}
	_, err = fmt.Fprintf(out, "%s;\n%s\nwhat it has recorded since is not known here: `%s status` says it there\n", other, heard[last.Record], r.PeerProgram)
	return err
}

// confirmed asks for the name of this host. It does not show the name: the person has to know
// where the command runs.
func (r *resolveFlags) confirmed(in io.Reader, out io.Writer, ask string) error {
	host, err := os.Hostname()
	if err != nil {
		return &transport.Fault{Code: transport.CodeInternal, Err: err}
	}
	typed := r.confirm
	if typed == "" {
		fmt.Fprintf(out, "%s, type the name of this host: ", ask)
		line, err := bufio.NewReader(io.LimitReader(in, 1<<10)).ReadString('\n')
		if err != nil && line == "" {
			fmt.Fprintln(out)
		}
		typed = strings.TrimSpace(line)
	}
	if typed != host {
		return ui.Mistakef("`hostname` prints it: are you where you mean to be?", "%.80q is not the name of this host; nothing was changed", typed)
	}
	return nil
}

// win asks the witness of a migration that has one. Until the destination has the register, a
// source that reconnects may still win it, and run.
func (r *resolveFlags) win(last handoff.Entry) error {
	if r.Role != journal.Destination || last.Witness == 0 {
		return nil
	}
	if r.witness.url == "" {
		return ui.Mistakef("name it with --witness, as it was named to mig-recv", "the migration has a witness, which may have given the devices back to the source: it must be asked first")
	}
	if err := r.witness.openURL(); err != nil {
		return err
	}
	winner, err := witness.Ask(context.Background(), r.witness.used, last.Witness, last.Attempt, handoff.DestSide)
	switch {
	case err != nil:
		return &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("nothing was changed: %w", err)}
	case winner != handoff.DestSide:
		return ui.Mistakef("resume the devices at the source: `mig-send status` says there what it knows",
			"the witness has given the devices back to the source, which may run them; nothing was changed")
	}
	return nil
}

// workedOn is why a person cannot decide a migration yet: a program still works on it.
type workedOn struct {
	program string
	mig     migration.ID
	pid     int // 0 where that is not known
}

func (w *workedOn) Error() string {
	return fmt.Sprintf("%s works on migration %v%s: it may yet hear from the other side", w.program, w.mig, w.process())
}

func (w *workedOn) process() string {
	if w.pid == 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d)", w.pid)
}

func (w *workedOn) Hint() string {
	return ui.EndFirst(w.pid)
}
