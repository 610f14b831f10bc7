package continuing

import (
	"cmp"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// StateHelp is the part of the help texts about the journal.
const StateHelp = `With --state-dir, the program writes each decision about a migration to a journal in
that directory before it announces it. Neither a crash of the program nor one of the host
loses the decision; ` + "`status`" + ` shows the journals. Without --state-dir (and without systemd's
StateDirectory) decisions are lost with the process. --expire-state-after removes the journal
of a migration that has ended for both sides; every other journal stays. The program makes
DIR if it is missing, but no directory above it. DIR has to belong to this user or root, and
no other user may be able to write it, or a directory on the way to it. step-times.json
there has the times that hooks and a VMM's answers took in the last migration.`

// State is the directory with the journals, by its flags.
type State struct {
	dir      string
	Volatile bool
	Keep     time.Duration
	Devices  []journal.Device // of the command line, for the journals; none for other commands
	surveyed *survey          // nil until the journals were read
}

// KeepState is how long the journal of an ended migration stays, unless a flag says otherwise.
const KeepState = 30 * 24 * time.Hour

// Add registers the flags.
func (s *State) Add(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&s.dir, "state-dir", "", "`DIR` for the journals, which outlive a crash (default $STATE_DIRECTORY, else none are written)")
	f.BoolVar(&s.Volatile, "volatile-state", false, "accept a --state-dir on a file system that a restart of the host empties")
	_ = cmd.MarkPersistentFlagDirname("state-dir")
}

// Directory is where the journals are, "" for nowhere. systemd may name several.
func (s *State) Directory() string {
	if s.dir != "" {
		return s.dir
	}
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return first
}

// Journals opens the journal of one side of a migration: one that outlives the process, if
// there is a directory for it.
func (s *State) Journals(role journal.Role) handoff.Journals {
	dir := s.Directory()
	if dir == "" {
		return handoff.InMemory
	}
	return func(mig migration.ID, existing bool) (handoff.Journal, error) {
		j, err := journal.Open(dir, journal.Options{Role: role, Mig: mig, Volatile: s.Volatile, Existing: existing, Devices: s.Devices})
		if err != nil {
			return nil, &ui.JournalError{Err: err}
		}
		return j, nil
	}
}

// Times are those of the steps of the last run, nil where there is no directory for them.
func (s *State) Times() handoff.StepTimes {
	if dir := s.Directory(); dir != "" {
		return journal.NewTimes(dir)
	}
	return nil
}

// check refuses a directory that journals cannot rely on.
func (s *State) check() error {
	dir := s.Directory()
	if dir == "" {
		return nil
	}
	if err := journal.Check(dir, s.Volatile); err != nil {
		e := &ui.JournalError{Err: err}
		return ui.Mistakef(e.Hint(), "%s", ui.PlainText(err))
	}
	return nil
}

// Prune removes this side's journals of migrations that ended long ago. A failure is no
// reason to refuse a new migration: warn reports it.
func (s *State) Prune(role journal.Role, warn func(text string)) {
	if s.Directory() == "" {
		return
	}
	found := s.survey(role)
	if err := cmp.Or(found.missing, found.unpruned); err != nil {
		warn(ui.PlainText(err))
	}
}
