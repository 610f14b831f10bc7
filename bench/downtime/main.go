// Command downtime compares four ways to migrate a set of VFIO devices by how
// long the guest stands still: as a discrete-event model, and as real
// migrations of simulated devices over this machine's loopback. It prints a
// table and draws where the time goes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/record"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: error: %v\n", err)
		os.Exit(1)
	}
}

// run is the whole command.
func run(ctx context.Context, args []string, out io.Writer) error {
	var s scenario
	flags := flag.NewFlagSet("downtime", flag.ContinueOnError)
	dir := flags.String("out", "bench/out", "folder for downtime.svg, downtime.png and downtime.json")
	flags.IntVar(&s.Devices, "devices", 4, "devices that migrate together")
	flags.IntVar(&s.Rounds, "rounds", 3, "real migrations of each strategy")
	flags.IntVar(&s.Share, "share", 8, "of so many bytes the devices and the link move one, at a rate to match: all times stay")
	flags.Float64Var(&s.Scale, "scale", 1, "factor for the devices' sizes and times")
	flags.StringVar(&s.Carrier, "carrier", "quic", "of the real migrations: quic (loopback) or pipe (memory)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q: --help lists the flags", flags.Arg(0))
	}
	if err := s.check(); err != nil {
		return err
	}
	r, err := s.compare(ctx)
	if err != nil {
		return err
	}
	r.Host = record.ThisHost("go run ./bench/downtime " + strings.Join(args, " "))
	if _, err := io.WriteString(out, r.table()); err != nil {
		return err
	}
	return r.save(*dir)
}
