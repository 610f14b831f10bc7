package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/record"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Parse(reportPage))

// chart is a drawing with what is to be known of it.
type chart struct {
	Title   string
	Note    string
	Host    record.Host
	Drawing template.HTML
}

// page is the report: one file, which needs no other. The downtimes are those in dir.
func (r *result) page(dir string) ([]byte, error) {
	moves := func(content bool) (list []outcome) {
		return slices.DeleteFunc(r.shown(), func(o outcome) bool { return comparesContent(o) != content })
	}
	rate := func(f *figures) record.Spread { return f.Rate }
	cpu := func(f *figures) record.Spread { return f.CPU }
	carriers, err1 := bars("Throughput by way, random bytes", "MB/s", moves(false), rate)
	contents, err2 := bars("Throughput by content and codec", "MB/s of what is moved, whatever is on the wire", moves(true), rate)
	processors, err3 := bars("Processor time", "CPU seconds per GB, both ends", r.shown(), cpu)
	memory, err4 := memoryLines(slices.DeleteFunc(moves(false), func(o outcome) bool { return o.Group != groupPipeline }))
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return nil, err
		}
	}
	charts := slices.DeleteFunc([]chart{
		{"Throughput by way", "The bar is the median of all rounds, the line runs from the least to the most.", r.Host, carriers},
		{"Throughput by content and codec", "Two lanes, both ends on this host: where cores are what is short, a codec takes them from the lanes.", r.Host, contents},
		{"Processor time", "Of the source and the destination together, the kernel's included.", r.Host, processors},
		{"Memory over time", "Resident, of this process, which both ends are: the devices and the benchmark's own are in it. Of the first ways that there are colours for.", r.Host, memory},
	}, func(c chart) bool { return c.Drawing == "" })
	charts = append(charts, waterfall(dir))
	var b bytes.Buffer
	err := reportTemplate.Execute(&b, map[string]any{"Host": r.Host, "Charts": charts, "Table": r.table()})
	return b.Bytes(), err
}

// waterfall is what bench/downtime has left in the folder. Without it the page has the
// rest: that took longer.
func waterfall(dir string) chart {
	const title = "Where the downtime goes"
	drawing, err1 := os.ReadFile(filepath.Join(dir, "downtime.svg"))
	host, err2 := hostOf(filepath.Join(dir, "downtime.json"))
	if err := cmp.Or(err1, err2); err != nil {
		return chart{Title: title, Note: "Not drawn; make bench-downtime does that. " + err.Error()}
	}
	return chart{title, "One stage after another since the pause of the guest, by the model and in the measurement with the median downtime.", host, element(drawing)}
}

// hostOf says where and how the figures in a file were taken.
func hostOf(path string) (record.Host, error) {
	var of struct{ Host record.Host }
	figures, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(figures, &of)
	}
	return of.Host, err
}

// comparesContent tells the ways that are there for what they move from those that are
// there for how.
func comparesContent(o outcome) bool {
	return o.Group == groupPipeline && !strings.Contains(o.Bench, "content=random/codec=raw")
}
