package main

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/internal/record"
	"github.com/migpipe/migpipe/bench/internal/resident"
)

func rates(name string, list ...float64) outcome {
	o := outcome{Name: name, Bench: "Way/way=1", Group: groupPipeline}
	for _, r := range list {
		o.add(sample{Rate: r, Seconds: 1 / r, CPU: 1, Allocs: 1, Peak: 1, memory: []resident.Sample{{Seconds: 0, Bytes: 1e6}, {Seconds: 1, Bytes: 2e6}}})
	}
	return o
}

// Rounds are paired: if two ways slow down together, their ratio is steady. The ratio of
// their medians, or of another pairing, is not.
func TestRatio(t *testing.T) {
	got := ratioOf(rates("a", 100, 10, 40), rates("b", 200, 20, 80))
	if got.Summary != (record.Spread{Median: 0.5, Min: 0.5, Max: 0.5}) || len(got.Rounds) != 3 {
		t.Errorf("%+v", got)
	}
	got = ratioOf(rates("a", 30, 10), rates("b", 10, 30))
	if want := []float64{3, 1.0 / 3}; !slices.Equal(got.Rounds, want) {
		t.Errorf("%v, want %v", got.Rounds, want)
	}
}

// A ratio needs both ways. A way that was left out has its reason.
func TestConclude(t *testing.T) {
	pair := compared(2)[0]
	r := result{Host: record.ThisHost("command"), Ways: []outcome{rates(pair[0], 3, 6), rates(pair[1], 6, 6), {Name: "tool", Skipped: "it is not installed"}}}
	r.conclude()
	if len(r.Ratios) != 1 || r.Ratios[0].Summary != (record.Spread{Median: 0.75, Min: 0.5, Max: 1}) {
		t.Errorf("%+v", r.Ratios)
	}
	if table := r.table(); !strings.Contains(table, "SKIP: it is not installed") {
		t.Error(table)
	}
	page, err := r.page(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, page)
	checkBenchmarks(t, string(r.benchmarks()))
}

// benchmarkLine is one of the Go benchmark data format: a name with the processors, a
// count, and pairs of a number and a unit.
var benchmarkLine = regexp.MustCompile(`^Benchmark[A-Z][^ ]*-\d+ \d+( [0-9.]+ [A-Za-z][^ ]*)+$`)

// configLine is one of its configuration lines: a key begins with a small letter and has
// no large one, nor a space.
var configLine = regexp.MustCompile(`^[a-z][^A-Z\s:]*: .+$`)

func checkBenchmarks(t *testing.T, text string) {
	t.Helper()
	lines := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case benchmarkLine.MatchString(line):
			lines++
		case line != "" && !configLine.MatchString(line):
			t.Errorf("benchstat would not read %q", line)
		}
	}
	if lines == 0 {
		t.Errorf("there is no benchmark in\n%s", text)
	}
}

// loads matches everything that makes a page load another file.
var loads = regexp.MustCompile(`(?i)(src|href)\s*=|url\(|@import|<script|<link`)

// checkPage reads the page as XML, which it is except for its doctype and meta. It searches
// for forbidden content.
func checkPage(t *testing.T, page []byte) {
	t.Helper()
	if found := loads.Find(page); found != nil {
		t.Errorf("the page loads something: %q", found)
	}
	d := xml.NewDecoder(strings.NewReader(string(page)))
	d.Strict, d.AutoClose, d.Entity = false, []string{"meta"}, xml.HTMLEntity
	charts := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page is not well formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "svg" {
			charts++
		}
	}
	if charts == 0 {
		t.Error("the page has no chart")
	}
}

// The page has the results of other comparisons in the directory, and its command. For a
// missing result it names the command that makes it.
func TestOthersAreOnThePage(t *testing.T) {
	dir := t.TempDir()
	r := result{Host: record.ThisHost("throughput"), Ways: []outcome{rates("a", 1)}}
	r.conclude()
	for _, o := range others {
		finding := record.Finding{Table: "command: bin/" + o.name + " --rounds 1", Drawing: plot.New(), Height: 5 * vg.Centimeter}
		finding.Drawing.Title.Text = "A drawing of " + o.name
		pageHas := func(drawn bool) {
			t.Helper()
			b, err := r.page(dir)
			if err != nil {
				t.Fatal(err)
			}
			checkPage(t, b)
			page := string(b)
			if strings.Contains(page, finding.Table) != drawn || strings.Contains(page, finding.Drawing.Title.Text) != drawn ||
				strings.Contains(page, "Not there; bin/"+o.name+" ") == drawn {
				t.Errorf("a page that should have the %s, %v, is\n%s", o.name, drawn, page)
			}
		}
		pageHas(false)
		if err := finding.Leave(dir, o.name); err != nil {
			t.Fatal(err)
		}
		pageHas(true)
	}
}

// The share of others is neither idle nor our own time, and never negative.
func TestOthers(t *testing.T) {
	was := machine{busy: 10 * time.Second, idle: 5 * time.Second, own: time.Second}
	now := machine{busy: 18 * time.Second, idle: 7 * time.Second, own: 4 * time.Second}
	if got := now.others(was); got != 0.5 {
		t.Errorf("%v, want half", got)
	}
	if got := was.others(was); got != 0 {
		t.Errorf("%v in no time", got)
	}
	if _, err := machineTime(); err != nil {
		t.Error(err)
	}
}
