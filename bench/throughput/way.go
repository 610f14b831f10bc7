package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// way is one way to move bytes from one end to the other over this host's loopback.
type way struct {
	Name  string // in the table
	Bench string // in benchmark names: parts of key=value
	Group string // of the chart's colours: bare, external, pipeline
	Procs int    // GOMAXPROCS, 0 = one for each core

	// move moves size bytes. It starts m itself once everything is connected, and ends
	// it with the last byte.
	move func(ctx context.Context, size int64, m *meter) error
	// missing returns why the way cannot run here; nil if it always can.
	missing func() string
	part    int64 // 1/part of the bytes are moved; 0 is all
	times   int64 // or that many times as many, for a fast way; 0 is once
}

// skip returns why the way is left out, "" if it is not.
func (w *way) skip() string {
	if w.missing == nil {
		return ""
	}
	return w.missing()
}

// measure runs the way once.
func (w *way) measure(ctx context.Context, size int64) (sample, error) {
	if w.Procs > 0 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(w.Procs))
	}
	debug.FreeOSMemory() // no way pays for the garbage of another
	m := new(meter)
	defer m.stop()
	size = size * max(1, w.times) / max(1, w.part)
	if err := w.move(ctx, size, m); err != nil {
		return sample{}, fmt.Errorf("%s: %w", w.Name, err)
	}
	return m.sample(size)
}

// Names of groups.
const (
	groupBare     = "bare"
	groupExternal = "external"
	groupPipeline = "pipeline"
	groupLink     = "link" // neither in the table nor in charts: their ratios have a table
)

// Names of the ways with ratios.
const (
	bareStock = "quic-go, as it comes"
	bareGRO   = "quic-go with GRO"
	bareGRO2  = bareGRO + ", 2 conn"
)

func bareTLS(conns int) string { return fmt.Sprintf("crypto/tls, %d conn", conns) }

// ways returns all ways for a host with that many cores. Compared ways stand next to each
// other.
func ways(host int) []way {
	list := []way{
		{Name: bareStock, Bench: "Bare/over=quic/gro=no/conns=1", Group: groupBare, move: quicStreams(1, false)},
		{Name: bareGRO, Bench: "Bare/over=quic/gro=yes/conns=1", Group: groupBare, move: quicStreams(1, true)},
		{Name: bareGRO2, Bench: "Bare/over=quic/gro=yes/conns=2", Group: groupBare, move: quicStreams(2, true)},
		pipeline{over: "quic", lanes: 1, content: "random", codec: "raw"}.way(),
		pipeline{over: "quic", lanes: 2, content: "random", codec: "raw"}.way(),
	}
	list = append(list, encoded("random")...)
	list = append(list,
		pipeline{over: "quic", lanes: 4, content: "random", codec: "raw"}.way(),
		pipeline{over: "quic", lanes: 2, content: "random", codec: "raw", procs: 1}.way(),
		pipeline{over: "quic", lanes: 2, content: "random", codec: "raw", procs: 2}.way())
	for conns := 1; conns <= 2; conns++ {
		list = append(list,
			way{Name: fmt.Sprintf("TCP, %d conn", conns), Bench: fmt.Sprintf("Bare/over=tcp/conns=%d", conns), Group: groupBare, move: tcpStreams(conns, false)},
			way{Name: bareTLS(conns), Bench: fmt.Sprintf("Bare/over=tls/conns=%d", conns), Group: groupBare, move: tcpStreams(conns, true)},
			pipeline{over: "tls", lanes: conns, content: "random", codec: "raw"}.way())
	}
	for _, w := range wides(host) {
		list = append(list, w.bare(), w.pipeline().way())
	}
	list = append(list, far()...)
	list = append(list, externals()...)
	for _, content := range kinds {
		if content != "random" {
			list = append(list, encoded(content)...)
		}
	}
	return append(list, limited()...)
}

// encoded are the ways that differ by codec. Two lanes of raw random bytes are already among
// the carriers' ways.
func encoded(content string) (list []way) {
	for _, codec := range []string{"raw", "auto", "s2", "zstd"} {
		if content != "random" || codec != "raw" {
			list = append(list, pipeline{over: "quic", lanes: 2, content: content, codec: codec}.way())
		}
	}
	return append(list, pipeline{over: "tls", lanes: 2, content: content, codec: "auto"}.way())
}

// only selects the ways whose name or benchmark contains one of the words.
func only(list []way, words string) (kept []way) {
	for _, w := range list {
		for word := range strings.SplitSeq(words, ",") {
			if strings.Contains(w.Name, word) || strings.Contains(w.Bench, word) {
				kept = append(kept, w)
				break
			}
		}
	}
	return kept
}
