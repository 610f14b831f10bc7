package main

import (
	"strings"
	"testing"

	"github.com/migpipe/migpipe/bench/internal/record"
)

// Auto is compared, round by round, with the best codec for the same content over the same
// link. An unmeasured content has no line.
func TestAdaptive(t *testing.T) {
	measured := func(content, codec string, rates ...float64) (o outcome) {
		o.Name = links[0].on(content, codec).name()
		for _, r := range rates {
			o.Samples = append(o.Samples, sample{Rate: r})
		}
		o.Figures = &figures{Rate: record.SpreadOf(rates)}
		return o
	}
	got := adaptive([]outcome{
		measured("code", "raw", 12, 12, 12), measured("code", "zstd", 40, 20, 10), measured("code", "auto", 38, 20, 11),
		measured("random", "raw", 12), measured("random", "s2", 11), measured("random", "auto", 12),
		measured("zero", "auto", 7), measured("mixed", "s2", 7), // beside nothing
	})
	lines := strings.Split(strings.Trim(got, "\n"), "\n")
	if len(lines) != 3 || lines[0] != adaptiveHead {
		t.Fatalf("%q", lines)
	}
	for i, want := range []string{"random, 100 Mbit/s raw 1.00 [1.00..1.00]", "code, 100 Mbit/s zstd 1.00 [0.95..1.10]"} {
		if fields := strings.Join(strings.Fields(lines[i+1]), " "); fields != want {
			t.Errorf("%q, want %q", fields, want)
		}
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
