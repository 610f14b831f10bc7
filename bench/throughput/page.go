package main

import (
	"bytes"
	_ "embed"
	"html/template"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/record"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Parse(reportPage))

// chart is a drawing with its description.
type chart struct {
	Title   string
	Note    string
	Drawing template.HTML
	Table   string // names its host and command; if empty, those of the page apply
}

// page is the report: one file, which needs no other. dir has the results of other
// comparisons.
func (r *result) page(dir string) ([]byte, error) {
	moves := func(content bool) (list []outcome) {
		return slices.DeleteFunc(r.shown(), func(o outcome) bool { return comparesContent(o) != content })
	}
	rate := func(f *figures) record.Spread { return f.Rate }
	cpu := func(f *figures) record.Spread { return f.CPU }
	carriers, err1 := bars("Throughput by way, random bytes", "MB/s", moves(false), rate)
	contents, err2 := bars("Throughput by content and codec", "MB/s of state, before encoding", moves(true), rate)
	processors, err3 := bars("Processor time", "CPU seconds per GB, both ends", r.shown(), cpu)
	memory, err4 := memoryLines(slices.DeleteFunc(moves(false), func(o outcome) bool { return o.Group != groupPipeline }))
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return nil, err
		}
	}
	charts := slices.DeleteFunc([]chart{
		{"Throughput by way", "The bar is the median of all rounds, the line runs from the least to the most.", carriers, ""},
		{"Throughput by content and codec", "Two lanes, both ends on this host: where cores are what is short, a codec takes them from the lanes.", contents, ""},
		{"Processor time", "Of the source and the destination together, the kernel's included.", processors, ""},
		{"Memory over time", "Resident, of this process, which both ends are: the devices and the benchmark's own are in it. Of the first ways that there are colours for.", memory, ""},
	}, func(c chart) bool { return c.Drawing == "" })
	charts = append(charts, chart{Title: "Figures", Table: r.table()})
	for _, o := range others {
		charts = append(charts, o.chart(dir))
	}
	var b bytes.Buffer
	err := reportTemplate.Execute(&b, map[string]any{"Host": r.Host, "Charts": charts})
	return b.Bytes(), err
}

// other is another comparison.
type other struct{ name, title, note string }

var others = []other{
	{"downtime", "Downtime", "One stage after another since the pause of the guest, by the model and in the measurement with the median downtime."},
	{"footprint", "Memory of the two programs", "Resident, of each by itself, in the last round. The device is simulated, and its state is made as it is read."},
}

// chart reads its drawing from the directory. Without it the page has the rest: that
// comparison takes longer.
func (o other) chart(dir string) chart {
	table, drawing, err := record.Left(dir, o.name)
	if err != nil {
		return chart{Title: o.title, Note: "Not there; bin/" + o.name + " does that. " + err.Error()}
	}
	return chart{o.title, o.note, element(drawing), table}
}

// comparesContent distinguishes ways that compare contents from ways that compare carriers.
func comparesContent(o outcome) bool {
	return o.Group == groupPipeline && !strings.Contains(o.Bench, "content=random/codec=raw")
}
