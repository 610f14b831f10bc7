package main

import (
	"fmt"
	"strings"
)

// link is the source's --max-bandwidth. Below the host's own rate, codecs differ by what
// they save; at that rate, by what they cost.
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

const adaptiveHead = "auto / best of the fixed codecs, round by round                  best  median [min..max]"

// adaptive compares auto with the fixed codec that has the best median.
func adaptive(ways []outcome) string {
	by := map[string]outcome{}
	for _, o := range ways {
		if o.Figures != nil {
			by[o.Name] = o
		}
	}
	var lines []string
	for _, content := range kinds {
		for i := range links {
			if line, ok := links[i].row(content, by); ok {
				lines = append(lines, line)
			}
		}
	}
	if lines == nil {
		return ""
	}
	return "\n" + adaptiveHead + "\n" + strings.Join(lines, "\n") + "\n"
}

// row has a line only for measured ways.
func (l *link) row(content string, by map[string]outcome) (line string, ok bool) {
	auto, ok := by[l.on(content, "auto").name()]
	var best outcome
	var codec string
	for _, c := range fixed {
		o, measured := by[l.on(content, c).name()]
		if measured && (codec == "" || o.Figures.Rate.Median > best.Figures.Rate.Median) {
			best, codec = o, c
		}
	}
	if !ok || codec == "" {
		return "", false
	}
	return fmt.Sprintf("%-62s  %4s  %17s", l.of(content), codec, ratioOf(auto, best).Summary.Text(2)), true
}

// of names a line of the table.
func (l *link) of(content string) string { return content + ", " + l.name }
