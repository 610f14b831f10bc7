// Package command is what the programs below bench have in common as programs.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

// Main is a program's main: it has run carry out the command line until it ends or is
// interrupted, and says what went wrong. What run prints of its progress goes to progress.
func Main(run func(ctx context.Context, args []string, out, progress io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if status := complain(os.Stderr, run(ctx, os.Args[1:], os.Stdout, os.Stderr)); status != 0 {
		os.Exit(status)
	}
}

// complain gives the exit status.
func complain(w io.Writer, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(w, "bench: error: %v\n", err)
	if m, ok := errors.AsType[*Mistake](err); ok {
		fmt.Fprintf(w, "hint: %s\n", m.Hint)
	}
	return 1
}

// Mistake is an error that the caller can do something about.
type Mistake struct{ Text, Hint string }

// NewMistake is one, with what to do about it.
func NewMistake(text, hint string) *Mistake { return &Mistake{Text: text, Hint: hint} }

// Error is the mistake without the hint.
func (m *Mistake) Error() string { return m.Text }
