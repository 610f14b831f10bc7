// Package cli is what mig-send and mig-recv share: flags, device URLs,
// progress, events, reports, hints and exit codes. All that moves data is in
// the packages reader and writer.
package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/migpipe/migpipe/cmd/internal/broker"
	"github.com/migpipe/migpipe/transport"
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
	root.Version = version()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.Flags().SortFlags, root.PersistentFlags().SortFlags = false, false
	root.PersistentFlags().StringVar(&c.identity, "identity", "", "`FILE` with this side's private key, made on first use")
	c.state.add(root)
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
	v := verdict{scene: scene{sending: p.role == source}, report: migration.Report{Outcome: migration.Aborted}, err: err}
	if !isPlaced(err) { // cobra's
		v.err = &mistake{text: err.Error(), hint: "see " + p.name + " --help"}
	}
	// The flag may stand behind the one that could not be read.
	to := newOutlets(p.name)
	if p.json || slices.Contains(args, "--json") {
		newJSONView(p.name, to.err, to.out).end(v)
	}
	complain(to.err, p.name, errorText(v.err), v.hints(v.report.Outcome, v.err))
	to.finish(p.name)
	return v.exit()
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
	_, ours := errors.AsType[*mistake](err)
	return fault || ours
}

// complain writes an error and what to do about it, one line each.
func complain(w io.Writer, program, text string, hints []string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: error: %s\n", program, text)
	for _, hint := range hints {
		fmt.Fprintf(&b, "%s: hint: %s\n", program, hint)
	}
	_ = put(w, b.Bytes(), true)
}

func idCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "id",
		Short: "Print this side's identity, for --peer at the other side",
		Long:  "Print this side's identity, for --peer at the other side. The key is made on\nfirst use, readable by its owner only.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := loadIdentity(c.identity, c.keyName)
			if err != nil {
				return err
			}
			return say(cmd, id.ID())
		},
	}
}

// say writes the one line that a command is for.
func say(cmd *cobra.Command, words ...any) error {
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), words...); err != nil {
		return &transport.Fault{Code: transport.CodeDevice, Err: err}
	}
	return nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return say(cmd, cmd.Root().Name(), version())
		},
	}
}

// version is what the build knows about itself.
func version() string {
	return fmt.Sprintf("%s %s %s/%s", release(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// release is what it was built from. A version that the go command made from a
// revision names it already.
func release() string {
	v, commit := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return releaseOf(v, commit)
}

func releaseOf(version, commit string) string {
	if strings.Contains(version, commit) {
		return version
	}
	return version + " " + commit
}
