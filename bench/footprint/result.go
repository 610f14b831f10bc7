package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/internal/record"
	"github.com/migpipe/migpipe/bench/internal/resident"
)

// result is the result of all runs.
type result struct {
	Host   record.Host `json:"host"`
	States []*outcome  `json:"states"`
}

// outcome has the memory of both programs for a state.
type outcome struct {
	Name string  `json:"state"`
	GiB  int     `json:"gib"`
	Send program `json:"mig-send"`
	Recv program `json:"mig-recv"`
}

// program has the figures of one program.
type program struct {
	Peaks  []float64         `json:"peak_rss_bytes"` // one for each round
	Memory []resident.Sample `json:"memory"`         // in the last one
}

func (p *program) add(f footprint) {
	p.Peaks, p.Memory = append(p.Peaks, float64(f.peak)), f.memory
}

// mib is the median, the minimum and the maximum of the peaks.
func (p *program) mib() record.Spread {
	s := record.SpreadOf(p.Peaks)
	return record.Spread{Median: s.Median / (1 << 20), Min: s.Min / (1 << 20), Max: s.Max / (1 << 20)}
}

// measure moves all states, round by round.
func (r *result) measure(ctx context.Context, list []state, progress io.Writer) error {
	dir, err := os.MkdirTemp("", "footprint-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := build(ctx, dir)
	if err != nil {
		return err
	}
	for _, s := range list {
		r.States = append(r.States, &outcome{Name: s.String(), GiB: s.gib})
	}
	for round := range list[0].rounds {
		for i, s := range list {
			if round >= s.rounds {
				continue
			}
			fmt.Fprintf(progress, "bench: %v, round %d of %d\n", s, round+1, s.rounds)
			send, recv, err := p.move(ctx, s)
			if err != nil {
				return fmt.Errorf("%v: %w", s, err)
			}
			r.States[i].Send.add(send)
			r.States[i].Recv.add(recv)
		}
	}
	return nil
}

const tableHead = "state             rounds  mig-send, MiB: median [min..max]  mig-recv, MiB: median [min..max]"

// table is the printed table.
func (r *result) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", r.Host.Lines(), tableHead)
	for _, o := range r.States {
		fmt.Fprintf(&b, "%-16s  %6d  %32s  %32s\n", o.Name, len(o.Send.Peaks), o.Send.mib().Text(0), o.Recv.mib().Text(0))
	}
	return b.String()
}

// leave writes the figures, and the drawing of the long states, into a directory.
func (r *result) leave(dir string) error {
	p, err := r.draw()
	if err != nil {
		return err
	}
	return record.Finding{Figures: r, Table: r.table(), Drawing: p, Height: 10 * vg.Centimeter}.Leave(dir, "footprint")
}

func (r *result) draw() (*plot.Plot, error) {
	var lines []resident.Line
	for _, o := range r.States {
		if o.GiB > short {
			lines = append(lines, resident.Line{Name: "mig-send, " + o.Name, Samples: o.Send.Memory},
				resident.Line{Name: "mig-recv, " + o.Name, Samples: o.Recv.Memory})
		}
	}
	return resident.Draw("Memory of the programs while they move a long state", "the program was started", lines)
}
