package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/migpipe/migpipe/transport"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual page into a directory",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := filepath.Join(args[0], cmd.Root().Name()+".1")
			if err := os.WriteFile(path, manPage(cmd.Root()), 0o644); err != nil {
				return &transport.Fault{Code: transport.CodeDevice, Err: err}
			}
			return nil
		},
	}
}

// manPage is the program's one page, with its sub-commands in it. cobra's own
// generator makes a page for each of them, and needs three more modules.
func manPage(root *cobra.Command) []byte {
	w := new(bytes.Buffer)
	fmt.Fprintf(w, ".TH %s 1 \"\" \"migpipe\"\n", roff(strings.ToUpper(root.Name())))
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", roff(root.Name()), roff(root.Short))
	fmt.Fprintf(w, ".SH SYNOPSIS\n")
	verbatim(w, root.UseLine())
	fmt.Fprintf(w, ".SH DESCRIPTION\n")
	verbatim(w, root.Long)
	fmt.Fprintf(w, ".SH OPTIONS\n")
	root.NonInheritedFlags().VisitAll(func(f *pflag.Flag) { manFlag(w, f) })
	fmt.Fprintf(w, ".SH COMMANDS\n")
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			fmt.Fprintf(w, ".TP\n.B %s\n%s\n", roff(root.Name()+" "+c.Use), roff(c.Short))
		}
	}
	for _, c := range root.Commands() {
		if c.IsAdditionalHelpTopicCommand() {
			fmt.Fprintf(w, ".SH %s\n", roff(strings.ToUpper(c.Name())))
			verbatim(w, c.Long)
		}
	}
	fmt.Fprintf(w, ".SH EXAMPLES\n")
	verbatim(w, root.Example)
	return w.Bytes()
}

func manFlag(w *bytes.Buffer, f *pflag.Flag) {
	argument, usage := pflag.UnquoteUsage(f)
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	fmt.Fprintf(w, ".TP\n\\fB%s\\fR \\fI%s\\fR\n%s", roff(name), roff(argument), roff(usage))
	if hasDefault(f) {
		fmt.Fprintf(w, " (default %s)", roff(f.DefValue))
	}
	fmt.Fprintln(w)
}

func hasDefault(f *pflag.Flag) bool {
	return f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]"
}

// verbatim preserves the lines of a text that is laid out for terminals.
func verbatim(w *bytes.Buffer, text string) {
	fmt.Fprintf(w, ".nf\n%s\n.fi\n", roff(text))
}

// roff escapes the characters that troff would interpret: backslashes, hyphens, and control
// characters at the start of a line.
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
