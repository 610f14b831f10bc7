package main

import (
	"bytes"
	_ "embed"
	"html/template"
	"slices"
	"strings"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Parse(reportPage))

// chart is a drawing with what is to be known of it.
type chart struct {
	Title   string
	Note    string
	Drawing template.HTML
}

// page is the report: one file, which needs no other.
func (r *result) page() ([]byte, error) {
	moves := func(content bool) (list []outcome) {
		return slices.DeleteFunc(slices.Clone(r.Ways), func(o outcome) bool { return comparesContent(o) != content })
	}
	rate := func(f *figures) spread { return f.Rate }
	cpu := func(f *figures) spread { return f.CPU }
	carriers, err1 := bars("Throughput by way, random bytes", "MB/s", moves(false), rate)
	contents, err2 := bars("Throughput by content and codec", "MB/s of what is moved, whatever is on the wire", moves(true), rate)
	processors, err3 := bars("Processor time", "CPU seconds per GB, both ends", r.Ways, cpu)
	memory, err4 := memoryLines(slices.DeleteFunc(moves(false), func(o outcome) bool { return o.Group != groupPipeline }))
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return nil, err
		}
	}
	charts := slices.DeleteFunc([]chart{
		{"Throughput by way", "The bar is the median of all rounds, the line runs from the least to the most.", carriers},
		{"Throughput by content and codec", "Two lanes, both ends on this host: where cores are what is short, a codec takes them from the lanes.", contents},
		{"Processor time", "Of the source and the destination together, the kernel's included.", processors},
		{"Memory over time", "Resident, of this process, which both ends are: the devices and the benchmark's own are in it.", memory},
	}, func(c chart) bool { return c.Drawing == "" })
	var b bytes.Buffer
	err := reportTemplate.Execute(&b, map[string]any{"Host": r.Host, "Charts": charts, "Table": r.table()})
	return b.Bytes(), err
}

// comparesContent tells the ways that are there for what they move from those that are
// there for how.
func comparesContent(o outcome) bool {
	return o.Group == groupPipeline && !strings.Contains(o.Bench, "content=random/codec=raw")
}
