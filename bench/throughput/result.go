package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/record"
	"github.com/migpipe/migpipe/bench/internal/resident"
)

// result is the result of a comparison.
type result struct {
	Host   record.Host `json:"host"`
	Plan   plan        `json:"plan"`
	Others float64     `json:"others_cpu_share"` // see machine.others
	Drain  float64     `json:"drain_s_per_gb"`   // see drainCost
	Ways   []outcome   `json:"ways"`
	Ratios []ratio     `json:"ratios"`
}

// outcome has the samples of one way, one for every round.
type outcome struct {
	Name    string   `json:"name"`
	Bench   string   `json:"benchmark"`
	Group   string   `json:"group"`
	Procs   int      `json:"gomaxprocs,omitempty"`
	Skipped string   `json:"skipped,omitempty"`
	Samples []sample `json:"samples,omitempty"`
	Figures *figures `json:"figures,omitempty"`

	Memory []resident.Sample `json:"memory,omitempty"` // in the last round
}

// figures summarise an outcome over all rounds.
type figures struct {
	Rate   record.Spread `json:"mb_per_s"`
	CPU    record.Spread `json:"cpu_s_per_gb"`
	Allocs record.Spread `json:"allocs_per_gb"`
	Peak   record.Spread `json:"peak_rss_bytes"`
}

func (o *outcome) add(s sample) {
	o.Samples, o.Memory = append(o.Samples, s), s.memory
}

// each collects one figure of every sample.
func (o *outcome) each(figure func(sample) float64) record.Spread {
	var list []float64
	for _, s := range o.Samples {
		list = append(list, figure(s))
	}
	return record.SpreadOf(list)
}

// conclude computes the figures from the samples.
func (r *result) conclude() {
	byName := map[string]outcome{}
	for i := range r.Ways {
		o := &r.Ways[i]
		if len(o.Samples) == 0 {
			continue
		}
		o.Figures = &figures{
			Rate:   o.each(func(s sample) float64 { return s.Rate }),
			CPU:    o.each(func(s sample) float64 { return s.CPU }),
			Allocs: o.each(func(s sample) float64 { return s.Allocs }),
			Peak:   o.each(func(s sample) float64 { return float64(s.Peak) }),
		}
		byName[o.Name] = *o
	}
	for _, pair := range compared(runtime.NumCPU()) {
		of, ok1 := byName[pair[0]]
		to, ok2 := byName[pair[1]]
		if ok1 && ok2 {
			r.Ratios = append(r.Ratios, ratioOf(of, to))
		}
	}
}

const (
	tableHead = "way                                          MB/s: median [min..max]  CPU s/GB  allocs/GB  peak MB"
	ratioHead = "ratio, round by round                                                      median [min..max]"
)

// shown are the ways with a row, and a bar.
func (r *result) shown() []outcome {
	return slices.DeleteFunc(slices.Clone(r.Ways), func(o outcome) bool { return o.Group == groupLink })
}

// table is the printed table.
func (r *result) table() string {
	var b strings.Builder
	b.WriteString(r.Host.Lines())
	fmt.Fprintf(&b, "others:  %.0f %% of the processors' time\n\n%s\n", 100*r.Others, tableHead)
	for _, o := range r.shown() {
		if o.Skipped != "" {
			fmt.Fprintf(&b, "%-43s  SKIP: %s\n", o.Name, o.Skipped)
			continue
		}
		f := o.Figures
		fmt.Fprintf(&b, "%-43s  %23s  %8.2f  %9.0f  %7.0f\n", o.Name, f.Rate.Text(0), f.CPU.Median, f.Allocs.Median, f.Peak.Median/1e6)
	}
	if len(r.Ratios) > 0 {
		fmt.Fprintf(&b, "\n%s\n", ratioHead)
	}
	for _, q := range r.Ratios {
		fmt.Fprintf(&b, "%-71s  %19s\n", q.Of+" / "+q.To, q.Summary.Text(2))
	}
	b.WriteString(adaptive(r.Ways))
	measured := pipeline{over: "quic", lanes: 2, content: "random", codec: "raw"}.name()
	for _, o := range r.Ways {
		if o.Name == measured && o.Figures != nil {
			b.WriteString(forecast(o.Figures.CPU.Median, r.Drain))
		}
	}
	return b.String()
}

// benchmarks is the text that benchstat reads (the Go benchmark data format): a line for
// each round of each way.
func (r *result) benchmarks() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "goos: %s\ngoarch: %s\npkg: github.com/migpipe/migpipe/bench/throughput\ncpu: %s\n", runtime.GOOS, runtime.GOARCH, r.Host.CPU)
	fmt.Fprintf(&b, "command: %s\nkernel: %s\ngo: %s\ndate: %s\n\n", r.Host.Command, r.Host.Kernel, r.Host.Go, r.Host.Date)
	for _, o := range r.Ways {
		procs := o.Procs
		if procs == 0 {
			procs = r.Host.Cores
		}
		for _, s := range o.Samples {
			fmt.Fprintf(&b, "Benchmark%s-%d 1 %.0f ns/op %.2f MB/s %.4f cpu-s/GB %.0f allocs/GB %d peak-rss-B\n",
				o.Bench, procs, s.Seconds*1e9, s.Rate, s.CPU, s.Allocs, s.Peak)
		}
	}
	return b.Bytes()
}

// save writes the figures and draws them.
func (r *result) save(dir string) error {
	page, err := r.page(dir)
	if err != nil {
		return err
	}
	if err := record.JSON(filepath.Join(dir, "results.json"), r); err != nil {
		return err
	}
	if err := record.File(filepath.Join(dir, "bench.txt"), r.benchmarks()); err != nil {
		return err
	}
	return record.File(filepath.Join(dir, "report.html"), page)
}
