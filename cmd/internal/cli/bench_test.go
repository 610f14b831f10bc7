package cli

import (
	"io"
	"net/http/httptest"
	"testing"
	"time"
)

// BenchmarkProgress is how long each view takes to tell of two devices, which happens
// several times a second while they move.
func BenchmarkProgress(b *testing.B) {
	events := underWay(source)
	progress := events[len(events)-1]
	for name, v := range map[string]view{
		"json":  newJSONView("mig-send", io.Discard, io.Discard),
		"lines": newLineView("mig-send", io.Discard, io.Discard),
		"bars":  newBarView("mig-send", io.Discard, io.Discard),
	} {
		b.Run(name, func(b *testing.B) {
			ev := stamped{at: time.Now(), Event: progress}
			for b.Loop() {
				ev.at = ev.at.Add(linesEvery) // the longest that any of them is silent
				v.event(ev)
			}
		})
	}
}

// BenchmarkScrape is one answer to Prometheus, with the metrics of Go and of the process.
func BenchmarkScrape(b *testing.B) {
	handler := metricsHandler(newRegistry(source, notedBy(underWay(source)...)))
	request := httptest.NewRequest("GET", "/metrics", nil)
	for b.Loop() {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != 200 {
			b.Fatalf("%d %s", answer.Code, answer.Body)
		}
	}
}

// BenchmarkNote is what metrics cost a migration that nobody scrapes.
func BenchmarkNote(b *testing.B) {
	events := underWay(source)
	l := new(latest)
	for b.Loop() {
		l.note(events[len(events)-1])
	}
}
