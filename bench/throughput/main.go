// Command throughput compares how fast bytes cross this host's loopback: through plain
// quic-go, crypto/tls and TCP, through tools of the host, and through whole migrations. All
// ways take turns, round by round, since only figures of the same time are comparable.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/command"
	"github.com/migpipe/migpipe/bench/internal/record"
)

func main() { command.Main(run) }

// plan is the plan of a comparison.
type plan struct {
	Rounds int   `json:"rounds"`
	Size   int64 `json:"bytes"`
	ways   []way
}

// run is the whole command.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	p := plan{Size: 256 << 20}
	flags := flag.NewFlagSet("throughput", flag.ContinueOnError)
	dir := flags.String("out", "bench/out", "directory for results.json, bench.txt and report.html, which has what other comparisons have left there")
	words := flags.String("only", "", "ways whose name or benchmark has one of these words, with commas between")
	flags.IntVar(&p.Rounds, "rounds", 5, "times that every way is gone")
	flags.Func("size", "bytes that each way moves each time, with KiB, MiB or GiB (default 256MiB)", func(text string) (err error) {
		p.Size, err = parseSize(text)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return command.NewMistake(fmt.Sprintf("unknown argument %q", flags.Arg(0)), "--help lists the flags")
	}
	p.ways = only(ways(runtime.NumCPU()), *words)
	if err := p.check(*words); err != nil {
		return err
	}
	// Otherwise quic-go would warn, into the table, that the host's limit is too small.
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil {
		return err
	}
	host := record.ThisHost("bin/throughput " + strings.Join(args, " "))
	r, err := p.compare(ctx, progress)
	if err != nil {
		return err
	}
	r.Host = host
	if _, err := io.WriteString(out, r.table()); err != nil {
		return err
	}
	if err := r.save(*dir); err != nil {
		return command.NewMistake(err.Error(), "--out names another directory")
	}
	return nil
}

func (p *plan) check(words string) error {
	switch {
	case p.Rounds < 1:
		return command.NewMistake(fmt.Sprintf("--rounds is %d", p.Rounds), "1 or more")
	case p.Size < 1<<20:
		return command.NewMistake(fmt.Sprintf("--size is %d bytes", p.Size), "1MiB or more: less measures the beginning and the end only")
	case len(p.ways) == 0:
		return command.NewMistake(fmt.Sprintf("--only %q leaves no way", words), "words of the names are quic, tls, TCP, migpipe, mixed, zstd")
	}
	return nil
}

// parseSize reads a number of bytes with or without a unit.
func parseSize(text string) (int64, error) {
	number, shift := text, 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if n, ok := strings.CutSuffix(text, unit); ok {
			number, shift = n, bits
		}
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size: %w", text, err)
	}
	return int64(n) << shift, nil
}

// compare runs every way, round by round. Every second round runs backwards, so that a drift
// within a round affects both ways of a comparison.
func (p *plan) compare(ctx context.Context, progress io.Writer) (*result, error) {
	r := &result{Plan: *p}
	before, err := machineTime()
	if err != nil {
		return nil, err
	}
	for _, w := range p.ways {
		r.Ways = append(r.Ways, outcome{Name: w.Name, Bench: w.Bench, Group: w.Group, Procs: w.Procs, Skipped: w.skip()})
	}
	for round := range p.Rounds {
		fmt.Fprintf(progress, "bench: round %d of %d\n", round+1, p.Rounds)
		for i := range p.ways {
			if round%2 == 1 {
				i = len(p.ways) - 1 - i
			}
			if r.Ways[i].Skipped != "" {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			s, err := p.ways[i].measure(ctx, p.Size)
			if err != nil {
				return nil, fmt.Errorf("round %d: %w", round+1, err)
			}
			r.Ways[i].add(s)
		}
	}
	after, err := machineTime()
	if err != nil {
		return nil, err
	}
	r.Others, r.Drain = after.others(before), drainCost()
	r.conclude()
	return r, nil
}
