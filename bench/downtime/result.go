package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/downtime/model"
	"github.com/migpipe/migpipe/bench/internal/record"
)

// result is what a comparison has found.
type result struct {
	Host       record.Host `json:"host"`
	Scenario   scenario    `json:"scenario"`
	Strategies []outcome   `json:"strategies"`
}

// outcome is one strategy's.
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

// medianTotal is that of the whole migration.
func (o outcome) medianTotal() time.Duration {
	var all []time.Duration
	for _, m := range o.Measured {
		all = append(all, m.Total)
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

const tableHead = "strategy                 model  measured: median [min..max]    total"

// table is what is printed: downtimes by the model and by measurement, and the
// measured time of the whole migration.
func (r *result) table() string {
	var b strings.Builder
	b.WriteString(r.Host.Lines())
	fmt.Fprintf(&b, "\n%s\n", tableHead)
	for _, o := range r.Strategies {
		sorted := o.byDowntime()
		measured := fmt.Sprintf("%s [%s..%s]", seconds(o.median().Downtime), seconds(sorted[0].Downtime), seconds(sorted[len(sorted)-1].Downtime))
		fmt.Fprintf(&b, "%-22s %s  %-27s  %s\n", o.Name, seconds(o.Model.Downtime), measured, seconds(o.medianTotal()))
	}
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%5.3f s", d.Seconds()) }

// save writes the figures and draws them.
func (r *result) save(dir string) error {
	if err := record.JSON(filepath.Join(dir, "downtime.json"), r); err != nil {
		return err
	}
	p, err := r.draw()
	if err != nil {
		return err
	}
	for _, format := range []string{"svg", "png"} {
		drawing, err := record.Draw(p, 11*vg.Centimeter, format)
		if err != nil {
			return err
		}
		if err := record.File(filepath.Join(dir, "downtime."+format), drawing); err != nil {
			return err
		}
	}
	return nil
}
