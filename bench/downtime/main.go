// Command downtime compares four ways to migrate a set of VFIO devices by their
// downtime: as a discrete-event model, and as real migrations of simulated devices
// over this machine's loopback. It also measures what durable journals add to a
// switchover. It prints tables and draws where the time goes.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/command"
	"github.com/migpipe/migpipe/bench/internal/record"
)

func main() { command.Main(run) }

// run is the whole command.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	var s scenario
	flags := flag.NewFlagSet("downtime", flag.ContinueOnError)
	dir := flags.String("out", "bench/out", "directory for downtime.json, downtime.txt, downtime.svg and downtime.png")
	flags.IntVar(&s.Devices, "devices", 4, "devices that migrate together")
	flags.IntVar(&s.Rounds, "rounds", 3, "real migrations of each strategy")
	flags.IntVar(&s.Stops, "stops", 150, "real migrations without durable journals, and as many with")
	shares := flags.String("shares", "8,1", "one comparison for each: of so many bytes the devices and the link move one, at a rate to match: all times stay")
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
	list, err := parseShares(*shares)
	if err != nil {
		return err
	}
	r := &result{Host: record.ThisHost("bin/downtime " + strings.Join(args, " "))}
	if err := r.measure(ctx, s, list, *dir, progress); err != nil {
		return err
	}
	if _, err := io.WriteString(out, r.table()); err != nil {
		return err
	}
	return r.leave(*dir)
}

// parseShares reads numbers separated by commas.
func parseShares(text string) (list []int, err error) {
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 100 {
			return nil, fmt.Errorf("--shares has %q, must be 1 to 100", word)
		}
		list = append(list, n)
	}
	return list, nil
}

// measure runs the scenario for each share. dir is on the disk on which journals are
// measured.
func (r *result) measure(ctx context.Context, s scenario, shares []int, dir string, progress io.Writer) error {
	for _, s.Share = range shares {
		c, err := s.compare(ctx, progress)
		if err != nil {
			return err
		}
		r.Comparisons = append(r.Comparisons, c)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var err error
	r.Journals, err = s.stops(ctx, dir, progress)
	return err
}
