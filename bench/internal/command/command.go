// Package command is the common part of the programs below bench.
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

// Main is a program's main function. It calls run with the command line until run returns or
// is interrupted, and prints its error. run writes its progress to progress.
func Main(run func(ctx context.Context, args []string, out, progress io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if status := complain(os.Stderr, run(ctx, os.Args[1:], os.Stdout, os.Stderr)); status != 0 {
		os.Exit(status)
	}
}

// complain prints an error and returns the exit status.
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

// Mistake is an error that the caller can correct.
type Mistake struct{ Text, Hint string }

// NewMistake returns a mistake with a hint for its correction.
func NewMistake(text, hint string) *Mistake { return &Mistake{Text: text, Hint: hint} }

// Error returns the mistake without the hint.
func (m *Mistake) Error() string { return m.Text }
