package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/exe"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// hookHelp is the part of the help texts about hooks. The second half is of each
// program's own.
const hookHelp = `A hook is a program that is run, without arguments, when a step is recorded, so
that networks, storage or an orchestrator can shut the older attempt out. Its
environment has the fencing token: MIGPIPE_MIGRATION, MIGPIPE_EPOCH (which only
rises), MIGPIPE_SIDE and MIGPIPE_EVENT. It may take 5 s, may be run again for the
same step after a crash, and keeps the program out of its sandbox. Its exit status
counts: what it leaves running is not waited for, and loses its stdout and stderr.
`

const sendHookHelp = hookHelp + `--on-commit is run beside the wait for the destination's answer; --on-revert before
devices that come back from there are resumed. A failure of either is a warning.`

const recvHookHelp = hookHelp + `--on-accept is run before the devices are started. If it fails they are not: the
copy is kept, and the source may take its devices back. Its time is part of the
downtime. --state-dir keeps the time of its last run, which predicts the next.`

// hookFlag is a hook that a user may name.
type hookFlag struct {
	event string // commit, accept or revert
	name  string
	path  string // once it was found
}

func (h *hookFlag) add(cmd *cobra.Command, event, usage string) {
	h.event = event
	cmd.Flags().StringVar(&h.name, "on-"+event, "", usage)
}

// find looks the programs up before anything is begun.
func findHooks(hooks ...*hookFlag) (err error) {
	for _, h := range hooks {
		if h.name == "" {
			continue
		}
		if h.path, err = exe.Find(h.name); err != nil {
			return ui.Mistakef("name a program that this user may run", "--on-%s: %s", h.event, ui.PlainText(err))
		}
	}
	return nil
}

// hook runs the program, nil if none was named.
func (h *hookFlag) hook(side handoff.Side) handoff.Hook {
	if h.path == "" {
		return nil
	}
	return func(ctx context.Context, a migration.Attempt) error {
		_, err := exe.Run(ctx, h.path, exe.AttemptEnv(a.Mig.String(), a.Epoch, side.String(), "MIGPIPE_EVENT="+h.event))
		if err != nil {
			return &hookError{err, h.event, h.path}
		}
		return nil
	}
}

// hookError is the failure of a hook.
type hookError struct {
	error
	event, path string
}

func (e *hookError) Unwrap() error { return e.error }

func (e *hookError) Hint() string {
	return fmt.Sprintf("run %s by hand, with MIGPIPE_EVENT=%s and the other variables of --help: it has to exit with 0", e.path, e.event)
}
