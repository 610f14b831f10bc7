// Package cli is the commands mig-send and mig-recv: it registers flags, checks them, and runs
// an engine with them. The packages reader and writer move all data.
package cli

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/migpipe/migpipe/cmd/internal/broker"
	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// program is one of the two commands: cobra's tree, and the exit code that a
// run of it has left.
type program struct {
	*common
	name string // mig-send or mig-recv
	root *cobra.Command
	exit int
}

// newProgram adds what both have to a root command.
func newProgram(root *cobra.Command, c *common) *program {
	p := &program{common: c, name: root.Name(), root: root}
	root.Args = cobra.NoArgs
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return input.FlagError(p.name, err) })
	root.Version = ui.Version()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.Flags().SortFlags, root.PersistentFlags().SortFlags = false, false
	root.PersistentFlags().StringVar(&c.auth.Identity, "identity", "", "`FILE` with this side's private key, made on first use")
	c.state.Add(root)
	root.AddCommand(idCommand(c), statusCommand(c), resolveCommand(c), manCommand(), versionCommand(), simTopic())
	return p
}

// run gives an exit code to everything that a command line can lead to.
func (p *program) run(args []string) int {
	abortOnPanic()
	if len(args) > 0 && args[0] == broker.Word {
		return broker.Serve(args[1:])
	}
	// A reader of the report that has gone away must not kill a migration.
	signal.Ignore(syscall.SIGPIPE)
	// quic-go would write a line of its own; the report's carrier and a warning say it.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		p.root.Flags().VisitAll(plainUsage)
		p.root.PersistentFlags().VisitAll(plainUsage)
	}
	p.root.SetArgs(args)
	out := &checkedWriter{to: os.Stdout}
	p.root.SetOut(out)
	err := p.root.Execute()
	if out.err != nil && !isPlaced(err) { // cobra's help ignores it, and its version takes it for a wrong command line
		err = &transport.Fault{Code: transport.CodeDevice, Err: out.err}
	}
	if err == nil {
		return p.exit
	}
	v := ui.Result{Scene: ui.Scene{Sending: p.Role == journal.Source}, Report: migration.Report{Outcome: migration.Aborted}, Err: err}
	if !isPlaced(err) { // cobra's
		v.Err = &ui.Mistake{Text: err.Error(), Hint: "see " + p.name + " --help"}
	}
	// --json may follow the flag that could not be read.
	return ui.Refuse(p.name, p.json || slices.Contains(args, "--json"), v)
}

// checkedWriter remembers the first error of a writer.
type checkedWriter struct {
	to  io.Writer
	err error
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

// plainUsage takes the marks off a placeholder, which completions would show.
func plainUsage(f *pflag.Flag) { f.Usage = strings.ReplaceAll(f.Usage, "`", "") }

func isPlaced(err error) bool {
	_, fault := errors.AsType[*transport.Fault](err)
	_, ours := errors.AsType[*ui.Mistake](err)
	return fault || ours
}

func idCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "id",
		Short: "Print this side's identity, for --peer at the other side",
		Long:  "Print this side's identity, for --peer at the other side. The key is made on\nfirst use, readable by its owner only.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := input.LoadIdentity(c.auth.Identity, c.KeyName)
			if err != nil {
				return err
			}
			return say(cmd, id.ID())
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return say(cmd, cmd.Root().Name(), ui.Version())
		},
	}
}
