package main

import (
	"fmt"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/downtime/model"
	"github.com/migpipe/migpipe/bench/internal/record"
)

const barWidth = 14 // points

// draw draws the stages of the downtime as bars for each strategy, from left to right: the
// model's, and the median measurement's. The model's hardly differ by share.
func (r *result) draw() (*plot.Plot, error) {
	p := plot.New()
	first := r.Comparisons[0]
	p.Title.Text = fmt.Sprintf("Downtime of %d devices, %s, %s", first.Scenario.Devices, r.Host.CPU, r.Host.Date)
	p.X.Label.Text = "seconds since the guest was paused"
	p.X.Min = 0
	p.Legend.Top, p.Legend.Left = false, false
	p.Legend.XOffs, p.Legend.Padding = -vg.Points(4), vg.Points(3)
	p.Title.Padding = vg.Points(8)
	var names []string
	var rows []model.Result
	for i, o := range slices.Backward(first.Strategies) { // the axis runs upwards
		for _, c := range slices.Backward(r.Comparisons) {
			names, rows = append(names, o.Name+", "+c.Scenario.moved()), append(rows, c.Strategies[i].median())
		}
		names, rows = append(names, o.Name+", model"), append(rows, o.Model)
	}
	p.NominalY(names...)
	p.Y.Tick.Label.Font.Size = vg.Points(9) // else the longest labels are cut off
	var below *plotter.BarChart
	for stage, name := range model.StageNames {
		var took plotter.Values
		for _, row := range rows {
			took = append(took, row.Stages[stage].Took.Seconds())
		}
		bars, err := plotter.NewBarChart(took, vg.Points(barWidth))
		if err != nil {
			return nil, err
		}
		bars.Horizontal, bars.Color, bars.LineStyle.Width = true, record.Palette[stage], 0
		if below != nil {
			bars.StackOn(below)
		}
		below = bars
		p.Add(bars)
		p.Legend.Add(name, bars)
	}
	return p, nil
}
