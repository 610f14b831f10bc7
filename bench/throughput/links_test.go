package main

import (
	"strings"
	"testing"
)

// Auto is held against the codec that was best for the same content over the same link;
// what was not measured has a dash, and a link of which nothing was has no line.
func TestAdaptive(t *testing.T) {
	rates := map[string]map[string]float64{
		"code":   {"raw": 12, "s2": 20, "zstd": 40, "auto": 38},
		"random": {"raw": 12, "s2": 11, "zstd": 10, "auto": 12},
		"zero":   {"auto": 7}, // beside nothing
	}
	var ways []outcome
	for content, by := range rates {
		for codec, rate := range by {
			name := links[0].on(content, codec).name()
			ways = append(ways, outcome{Name: name, Figures: &figures{Rate: spread{Median: rate}}})
		}
	}
	got := strings.Split(strings.Trim(adaptive(ways), "\n"), "\n")
	if len(got) != 2 || !strings.HasPrefix(got[0], adaptiveHead) {
		t.Fatalf("%q", got)
	}
	if want := []string{"100", "Mbit/s", "-", "1.00", "raw", "-", "0.95", "zstd", "-", "-"}; strings.Join(strings.Fields(got[1]), " ") != strings.Join(want, " ") {
		t.Errorf("%q, want %q", got[1], want)
	}
	if none := adaptive(nil); none != "" {
		t.Errorf("of nothing: %q", none)
	}
}

// Every way over a slow link has a cell.
func TestLimited(t *testing.T) {
	if got, want := len(limited()), 3*len(kinds)*(1+len(fixed)); got != want {
		t.Errorf("%d ways, want %d", got, want)
	}
	for _, w := range limited() {
		if w.part < 1 || w.Group != groupLink || !strings.Contains(w.Bench, "/link=") {
			t.Errorf("%+v", w)
		}
	}
}
