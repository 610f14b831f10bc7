package resident

import (
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/internal/record"
)

// Line is one process's memory over time.
type Line struct {
	Name    string
	Samples []Sample
}

// Draw draws the lines, at most as many as there are colours.
func Draw(title, since string, lines []Line) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "seconds since "+since, "resident MB"
	p.X.Min, p.Y.Min = 0, 0
	p.Title.Padding = vg.Points(8)
	for i, l := range lines[:min(len(lines), len(record.Palette))] {
		var points plotter.XYs
		for _, s := range l.Samples {
			points = append(points, plotter.XY{X: s.Seconds, Y: float64(s.Bytes) / 1e6})
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = record.Palette[i], vg.Points(1.5)
		p.Add(line)
		p.Legend.Add(l.Name, line)
	}
	return p, nil
}
