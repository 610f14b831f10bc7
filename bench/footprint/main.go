// Command footprint measures the memory of the two programs in a migration: for short states
// and for long ones, of zeros and of noise. It prints the peaks and draws the memory over time.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/command"
	"github.com/migpipe/migpipe/bench/internal/record"
)

func main() { command.Main(run) }

// run is the whole command.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	flags := flag.NewFlagSet("footprint", flag.ContinueOnError)
	dir := flags.String("out", "bench/out", "directory for footprint.json, footprint.txt, footprint.svg and footprint.png")
	rounds := flags.Int("rounds", 3, "migrations of each state, but for one of zeros with more than 8 GiB, which is moved once")
	most := flags.Int("most", 100, "GiB of the longest state; of noise it has 8 at most")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unknown argument %q: --help lists the flags", flags.Arg(0))
	case *rounds < 1:
		return fmt.Errorf("--rounds is %d, must be 1 or more", *rounds)
	case *most <= short:
		return fmt.Errorf("--most is %d, must be more than %d, which the short states have", *most, short)
	}
	r := &result{Host: record.ThisHost("bin/footprint " + strings.Join(args, " "))}
	if err := r.measure(ctx, states(*most, *rounds), progress); err != nil {
		return err
	}
	if _, err := io.WriteString(out, r.table()); err != nil {
		return err
	}
	return r.leave(*dir)
}
