package record

import (
	"bytes"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
)

const chartWidth = 26 * vg.Centimeter

// Draw encodes a chart in a format that gonum/plot knows: svg, png.
func Draw(p *plot.Plot, height vg.Length, format string) ([]byte, error) {
	w, err := p.WriterTo(chartWidth, height, format)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = w.WriteTo(&b)
	return b.Bytes(), err
}
