package main

import (
	"strings"
	"testing"
	"time"
)

// A path that is far is slower than the loopback by what it is said to be.
func TestFar(t *testing.T) {
	const rtt = 40 * time.Millisecond
	p := pipeline{over: "quic", content: "random", codec: "raw", far: &path{rtt: rtt}}
	if w := p.way(); w.Name != "migpipe quic, relay, 40ms" || !strings.HasSuffix(w.Bench, "/rtt=40ms/loss=0") {
		t.Errorf("%q, %q", w.Name, w.Bench)
	}
	w := p.way()
	w.part = 4
	s, err := w.measure(t.Context(), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(s.Seconds * 1e9); got < rtt || s.Rate*s.Seconds*1e6 < 1<<20-1 || s.Rate*s.Seconds*1e6 > 1<<20+1 {
		t.Errorf("%.0f bytes took %v", s.Rate*s.Seconds*1e6, got)
	}
}

// The model says of every setting something that its link can carry.
func TestForecast(t *testing.T) {
	text := forecast(3.76, 0.185)
	for _, s := range settings {
		if !strings.Contains(text, s.name) {
			t.Errorf("no note on %q", s.name)
		}
	}
	for _, want := range []string{"one goroutine a lane", "one reading thread a device", "the memory for chunks"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q binds nowhere:\n%s", want, text)
		}
	}
	t.Log(text)
}
