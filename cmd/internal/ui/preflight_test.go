package ui

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/migpipe/migpipe/test/golden"
)

// TestPreflightEvent: it comes once, before the done event, and only where a
// migration would be accepted.
func TestPreflightEvent(t *testing.T) {
	var b bytes.Buffer
	newJSONView("mig-send", io.Discard, &b).end(preflighted())
	line, done, _ := bytes.Cut(b.Bytes(), []byte("\n"))
	var event jsonPreflight
	if err := json.Unmarshal(line, &event); err != nil {
		t.Fatal(err)
	}
	event.TMS, event.Time = 0, ""
	text, err := json.MarshalIndent(event, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "preflight.json", string(text)+"\n")
	if !bytes.Contains(done, []byte(`"event":"done"`)) {
		t.Errorf("behind it came %s", done)
	}
	b.Reset()
	newJSONView("mig-send", io.Discard, &b).end(refusedPreflight())
	if bytes.Contains(b.Bytes(), []byte(`"event":"preflight"`)) {
		t.Errorf("a refused one: %s", b.Bytes())
	}
}
