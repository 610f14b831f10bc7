package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/downtime/model"
	"github.com/migpipe/migpipe/bench/internal/record"
)

// result is the result of the comparison.
type result struct {
	Host        record.Host   `json:"host"`
	Comparisons []*comparison `json:"comparisons"` // by share
	Journals    *journals     `json:"journals"`
}

// comparison compares the strategies in one scenario.
type comparison struct {
	Scenario   scenario  `json:"scenario"`
	Strategies []outcome `json:"strategies"`
}

// outcome has the figures of one strategy.
type outcome struct {
	Name     string         `json:"name"`
	Model    model.Result   `json:"model"`
	Measured []model.Result `json:"measured"`
}

// byDowntime are the measurements, shortest first.
func (o outcome) byDowntime() []model.Result {
	return slices.SortedFunc(slices.Values(o.Measured), func(a, b model.Result) int { return cmp.Compare(a.Downtime, b.Downtime) })
}

// median is the measurement with the median downtime, the lower of two.
func (o outcome) median() model.Result {
	return o.byDowntime()[(len(o.Measured)-1)/2]
}

// medianTotal is the median duration of the whole migration.
func (o outcome) medianTotal() time.Duration {
	var all []time.Duration
	for _, m := range o.Measured {
		all = append(all, m.Total)
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// head is the head of a table, with the moved bytes.
func (s *scenario) head() string {
	return fmt.Sprintf("strategy, %-12s   model  measured: median [min..max]    total", s.moved())
}

// table is the printed table: downtimes by the model and by measurement, the measured time of
// the whole migration, and the cost of journals.
func (r *result) table() string {
	var b strings.Builder
	b.WriteString(r.Host.Lines())
	for _, c := range r.Comparisons {
		fmt.Fprintf(&b, "\n%s\n", c.Scenario.head())
		for _, o := range c.Strategies {
			sorted := o.byDowntime()
			measured := fmt.Sprintf("%s [%s..%s]", seconds(o.median().Downtime), seconds(sorted[0].Downtime), seconds(sorted[len(sorted)-1].Downtime))
			fmt.Fprintf(&b, "%-22s %s  %-27s  %s\n", o.Name, seconds(o.Model.Downtime), measured, seconds(o.medianTotal()))
		}
	}
	return b.String() + r.Journals.table()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%5.3f s", d.Seconds()) }

// leave writes the figures and the drawing into a directory.
func (r *result) leave(dir string) error {
	p, err := r.draw()
	if err != nil {
		return err
	}
	return record.Finding{Figures: r, Table: r.table(), Drawing: p, Height: 15 * vg.Centimeter}.Leave(dir, "downtime")
}
