package main

import (
	"bytes"
	"html/template"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/internal/record"
	"github.com/migpipe/migpipe/bench/internal/resident"
)

const (
	barHeight = 14 // points
	rowHeight = 20 // points, of a bar with what is around it
)

// groupColours are places in the palette.
var groupColours = map[string]int{groupBare: 1, groupExternal: 3, groupPipeline: 0}

// bars draws a figure of the ways that were gone: the median as a bar, with a line from
// the least to the most.
func bars(title, unit string, ways []outcome, figure func(*figures) record.Spread) (template.HTML, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.X.Min = title, unit, 0
	p.Title.Padding = vg.Points(8)
	var names []string
	var rows []outcome
	for _, o := range slices.Backward(ways) { // the axis runs upwards
		if o.Figures != nil {
			names, rows = append(names, o.Name), append(rows, o)
		}
	}
	if len(rows) == 0 {
		return "", nil
	}
	for group, colour := range groupColours {
		if err := addBars(p, rows, group, colour, figure); err != nil {
			return "", err
		}
	}
	var lines spreads
	for i, o := range rows {
		lines.add(figure(o.Figures), float64(i))
	}
	errorBars, err := plotter.NewXErrorBars(lines)
	if err != nil {
		return "", err
	}
	p.Add(errorBars)
	p.NominalY(names...)
	p.Y.Tick.Label.Font.Size = vg.Points(9) // else the longest are cut off
	return svg(p, vg.Points(float64(70+rowHeight*len(rows))))
}

// addBars adds those of one group; the others' rows it leaves empty.
func addBars(p *plot.Plot, rows []outcome, group string, colour int, figure func(*figures) record.Spread) error {
	var medians plotter.Values
	for _, o := range rows {
		if o.Group == group {
			medians = append(medians, figure(o.Figures).Median)
		} else {
			medians = append(medians, 0)
		}
	}
	chart, err := plotter.NewBarChart(medians, vg.Points(barHeight))
	if err != nil {
		return err
	}
	chart.Horizontal, chart.Color, chart.LineStyle.Width = true, record.Palette[colour], 0
	p.Add(chart)
	return nil
}

// spreads are lines from the least to the most, as plotter wants them.
type spreads struct {
	plotter.XYs
	plotter.XErrors
}

func (s *spreads) add(of record.Spread, y float64) {
	s.XYs = append(s.XYs, plotter.XY{X: of.Median, Y: y})
	s.XErrors = append(s.XErrors, struct{ Low, High float64 }{of.Median - of.Min, of.Max - of.Median})
}

// memoryLines draws the memory of this process over the time of migrations.
func memoryLines(ways []outcome) (template.HTML, error) {
	var lines []resident.Line
	for _, o := range ways {
		if len(o.Memory) > 0 {
			lines = append(lines, resident.Line{Name: o.Name, Samples: o.Memory})
		}
	}
	if lines == nil {
		return "", nil
	}
	p, err := resident.Draw("Memory of both ends while they migrate, last round", "the guest was paused", lines)
	if err != nil {
		return "", err
	}
	return svg(p, 10*vg.Centimeter)
}

func svg(p *plot.Plot, height vg.Length) (template.HTML, error) {
	file, err := record.Draw(p, height, "svg")
	return element(file), err
}

// element is the drawing as a page has it, without what stands before it in a file.
func element(file []byte) template.HTML {
	return template.HTML(file[max(0, bytes.Index(file, []byte("<svg"))):])
}
