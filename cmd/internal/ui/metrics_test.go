package ui

import (
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// exposed is what a scraper gets of a side's own metrics. The registry checks that they
// are what was described.
func exposed(t *testing.T, r journal.Role, l *latest) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newCollector(r, l))
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != 200 {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
	return strings.ReplaceAll(answer.Body.String(), Release(), "VERSION")
}

// underWay are the events of a migration that is in the middle of its stop.
func underWay(r journal.Role) []migration.Event {
	nic := migration.Snapshot{Name: "nic0", Bytes: 300 << 20, Wire: 150 << 20, Applied: 200 << 20, Remaining: 10 << 20, Known: true,
		Rates: migration.Rates{Save: 2e9, Wire: 1e9}} // how fast it loads is not known yet
	acc := migration.Snapshot{Name: "acc0", Bytes: 176}
	progress := migration.Event{Kind: migration.Progress, Devices: []migration.Snapshot{nic, acc}}
	if r == journal.Destination {
		progress.Occupancy = migration.Occupancy{Queue: 0.7512, Ahead: 0.031, Bottleneck: migration.BoundLoad}
		return []migration.Event{{Kind: migration.Peer}, {Kind: migration.Phase, Phase: migration.StopCopy}, progress}
	}
	progress.Occupancy = migration.Occupancy{Queue: 0.8277, Credit: 0.051, Flight: 0.0625, Bottleneck: migration.BoundNetwork}
	progress.Way = migration.Way{Goodput: 1.25e9, RTT: 350 * time.Microsecond}
	known := &migration.Forecast{Prediction: migration.Prediction{Downtime: migration.Span{Took: 80 * time.Millisecond, Known: true}}}
	return []migration.Event{
		{Kind: migration.Phase, Phase: migration.Connect}, {Kind: migration.Peer}, {Kind: migration.Phase, Phase: migration.PreCopy},
		{Kind: migration.Lost}, {Kind: migration.Restored},
		{Kind: migration.Phase, Phase: migration.Stop, Predicted: known}, {Kind: migration.Phase, Phase: migration.StopCopy}, progress,
	}
}

// notedBy is what a side knows after some events.
func notedBy(events ...migration.Event) *latest {
	l := new(latest)
	for _, ev := range events {
		l.note(ev)
	}
	return l
}

func TestMetrics(t *testing.T) {
	for name, r := range map[string]journal.Role{"mig-send": journal.Source, "mig-recv": journal.Destination} {
		golden.Compare(t, "metrics-"+name+".txt", exposed(t, r, notedBy(underWay(r)...)))
		golden.Compare(t, "metrics-"+name+"-before.txt", exposed(t, r, notedBy()))
	}
}

// TestMetricsFollow: each event changes what it is about, and nothing else.
func TestMetricsFollow(t *testing.T) {
	least := &migration.Forecast{Prediction: migration.Prediction{Downtime: migration.Span{Took: time.Second}}}
	for _, c := range []struct {
		ev    migration.Event
		lines []string
	}{
		{migration.Event{Kind: migration.Lost}, []string{"migpipe_connected 0", "migpipe_connections_lost_total 2"}},
		{migration.Event{Kind: held}, []string{"migpipe_connected 0", "migpipe_held 1"}},
		{migration.Event{Kind: migration.Phase, Phase: migration.Rollback}, []string{`migpipe_phase{phase="rollback"} 1`, `migpipe_phase{phase="stop-copy"} 0`}},
		{migration.Event{Kind: migration.Phase, Phase: migration.StopCopy, Predicted: least}, []string{`migpipe_predicted_downtime_seconds{known="false"} 1`}},
		{migration.Event{Kind: migration.Warning, Text: "of what is not served"}, nil},
	} {
		l := notedBy(underWay(journal.Source)...)
		before := strings.Split(exposed(t, journal.Source, l), "\n")
		l.note(c.ev)
		var changed []string
		for line := range strings.SplitSeq(exposed(t, journal.Source, l), "\n") {
			if !slices.Contains(before, line) {
				changed = append(changed, line)
			}
		}
		if !slices.Equal(changed, c.lines) {
			t.Errorf("%s changes %q, want %q", c.ev.Kind, changed, c.lines)
		}
	}
}

// TestMetricsOfOneMoment is for the race detector: scrapers come while events do.
func TestMetricsOfOneMoment(t *testing.T) {
	l := new(latest)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for range 20 {
				exposed(t, journal.Source, l)
			}
		})
	}
	for range 100 {
		for _, ev := range underWay(journal.Source) {
			l.note(ev)
		}
	}
	all.Wait()
}

// TestBadLabel: a name that no label may have costs its own metrics, and not the process.
func TestBadLabel(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(journal.Destination, notedBy(migration.Event{Kind: migration.Progress, Devices: []migration.Snapshot{{Name: "\xff"}}})))
	found, err := reg.Gather()
	if err == nil || len(found) == 0 {
		t.Errorf("%d metrics, %v", len(found), err)
	}
}

// TestReadmeMetrics holds the README's list against what is served.
func TestReadmeMetrics(t *testing.T) {
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(migpipe_[^`]*)` \\|.*\\| (both|`mig-send`) \\|$").FindAllStringSubmatch(string(text), -1) {
		said = append(said, row[1]+" "+row[2])
	}
	var served []string
	recv := map[string]bool{}
	for _, m := range metricsOf(journal.Destination) {
		recv[m.name] = true
	}
	for _, m := range metricsOf(journal.Source) { // which has all
		name := m.name
		if m.labels != nil {
			name += "{" + strings.Join(m.labels, ",") + "}"
		}
		served = append(served, name+" "+map[bool]string{true: "both", false: "`mig-send`"}[recv[m.name]])
		delete(recv, m.name)
	}
	slices.Sort(said)
	slices.Sort(served)
	if !slices.Equal(said, served) || len(recv) > 0 {
		t.Errorf("README lists\n%s\nand served is\n%s\n%v", strings.Join(said, "\n"), strings.Join(served, "\n"), recv)
	}
	for _, r := range []journal.Role{journal.Source, journal.Destination} {
		for _, name := range bottlenecks[r] {
			if !strings.Contains(string(text), fmt.Sprintf("| `%s` |", name)) {
				t.Errorf("README does not know the bottleneck %s", name)
			}
		}
	}
}
