package main

import (
	"fmt"
	"strings"
)

// link is what the source is told to send at most (--max-bandwidth). With less than what
// the host can do, codecs differ by what they save; with as much, by what they cost.
type link struct {
	name string
	word string // in benchmark names
	rate uint64 // bytes a second, 0 for no limit
	part int64  // 1/part of what the other ways move, so that no way takes much longer than another
}

var (
	links = []link{
		{"100 Mbit/s", "100M", 12.5e6, 8}, {"1 Gbit/s", "1G", 125e6, 2}, {"10 Gbit/s", "10G", 1250e6, 1}, {"unlimited", "", 0, 1},
	}
	kinds = []string{"zero", "random", "mixed", "code", "memory", "alternating"} // of content
	fixed = []string{"raw", "s2", "zstd"}                                        // codecs that may be chosen for all chunks
)

// on is what is moved over the link, encoded by one codec, or by auto.
func (l *link) on(content, codec string) pipeline {
	p := pipeline{over: "quic", lanes: 2, content: content, codec: codec}
	if l.rate > 0 {
		p.link = l
	}
	return p
}

// limited are the ways over links that are slower than the host.
func limited() (list []way) {
	for i := range links {
		if links[i].rate == 0 {
			continue // are the rows by content
		}
		for _, content := range kinds {
			for _, codec := range append([]string{"auto"}, fixed...) {
				list = append(list, links[i].on(content, codec).way())
			}
		}
	}
	return list
}

// adaptive is how auto stands beside the best of the fixed codecs.
func adaptive(ways []outcome) string {
	rates := map[string]float64{}
	for _, o := range ways {
		if o.Figures != nil {
			rates[o.Name] = o.Figures.Rate.Median
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-27s", adaptiveHead)
	for _, content := range kinds {
		fmt.Fprintf(&b, " %11s", content)
	}
	lines := 0
	for i := range links {
		line, any := links[i].row(rates)
		if any {
			b.WriteString("\n" + line)
			lines++
		}
	}
	if lines == 0 {
		return ""
	}
	return "\n" + b.String() + "\n"
}

const adaptiveHead = "auto / best of fixed codecs"

// row reports whether any of it was measured.
func (l *link) row(rates map[string]float64) (line string, any bool) {
	line = fmt.Sprintf("%-27s", l.name)
	for _, content := range kinds {
		auto, best := rates[l.on(content, "auto").name()], ""
		for _, codec := range fixed {
			if best == "" || rates[l.on(content, codec).name()] > rates[l.on(content, best).name()] {
				best = codec
			}
		}
		cell := "-"
		if of := rates[l.on(content, best).name()]; auto > 0 && of > 0 {
			cell, any = fmt.Sprintf("%.2f %s", auto/of, best), true
		}
		line += fmt.Sprintf(" %11s", cell)
	}
	return line, any
}
