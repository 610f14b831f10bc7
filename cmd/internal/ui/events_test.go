package ui

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

func TestOwnerEvents(t *testing.T) {
	a := migration.Attempt{Mig: migration.ID{0xab}, Epoch: 3}
	for want, ev := range map[string]migration.Event{
		`"migration":"ab000000000000000000000000000000","epoch":3,"downtime_ms":12.5}`: {Kind: migration.Ready, Attempt: a, Downtime: 12500 * time.Microsecond},
		`"migration":"ab000000000000000000000000000000","epoch":3}`:                    {Kind: migration.Accepted, Attempt: a},
	} {
		var b bytes.Buffer
		newJSONView("mig-send", io.Discard, &b).event(stamped{at: time.Now(), Event: ev})
		if got := b.String(); !strings.HasPrefix(got, `{"event":"`+string(ev.Kind)+`",`) || !strings.HasSuffix(got, want+"\n") {
			t.Errorf("%s, want %s", got, want)
		}
	}
	var b bytes.Buffer
	newJSONView("mig-send", io.Discard, &b).event(stamped{at: time.Now(), Event: migration.Event{Kind: NotUnderstood, Text: "foo"}, words: []string{"commit", "cancel"}})
	if got := b.String(); !strings.HasPrefix(got, `{"event":"not-understood",`) || !strings.HasSuffix(got, `"line":"foo","words":["commit","cancel"]}`+"\n") {
		t.Error(got)
	}
}
