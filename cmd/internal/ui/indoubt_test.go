package ui

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport/migration"
)

// heldScene is what a side in doubt knows of two devices that end with it.
func heldScene(sending bool) Scene { return Scene{Sending: sending, Kept: []string{"nic0", "acc0"}} }

// withoutPID makes a text the same in every process.
func withoutPID(text string) string {
	return strings.ReplaceAll(text, fmt.Sprint(os.Getpid()), "PID")
}

func TestHoldHints(t *testing.T) {
	for name, sending := range map[string]bool{"source": true, "destination": false} {
		s := heldScene(sending)
		text := strings.Join(s.holdHints(), "\n")
		s.LetGo = true
		text += "\n\nlet go:\n" + strings.Join(s.Hints(migration.InDoubt, io.EOF), "\n") + "\n"
		golden.Compare(t, "hints-held-"+name+".txt", withoutPID(text))
	}
}

func TestHeldEvent(t *testing.T) {
	ev := stamped{at: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC), held: heldScene(true)}
	ev.Kind, ev.Text = held, "in doubt: gone"
	var out bytes.Buffer
	j := newJSONView("mig-send", io.Discard, &out)
	j.start = ev.at
	j.event(ev)
	golden.Compare(t, "held.jsonl", withoutPID(out.String()))
	var lines bytes.Buffer
	newLineView("mig-send", &lines, &lines).event(ev)
	newBarView("mig-send", &lines, &lines).event(ev)
	if lines.Len() > 0 {
		t.Errorf("said twice: %q", lines.String())
	}
}

// TestHeldBars leaves the bars on the screen, and in doubt.
func TestHeldBars(t *testing.T) {
	var err bytes.Buffer
	b := newBarView("mig-send", &err, io.Discard)
	for _, ev := range events() {
		b.event(ev)
	}
	bar := b.bars["nic0"]
	b.event(stamped{Event: migration.Event{Kind: held}})
	if text := bar.row.text(80); !strings.HasPrefix(text, "nic0 in-doubt  [") || strings.Contains(text, "left") {
		t.Errorf("the bar says %q", text)
	}
	if b.screen != nil || len(b.bars) > 0 {
		t.Error("the bars are still drawn")
	}
	b.end(inDoubt())
}
