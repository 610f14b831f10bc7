package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// TestOwnerSays: one line each means yes, and nothing else does.
func TestOwnerSays(t *testing.T) {
	o := ownerFlag{who: "external"}
	for name, ask := range map[string]func(io.Reader) func(context.Context) error{"commit": o.approve, "started": o.start} {
		for in, want := range map[string]string{
			name + "\n":              "",
			name + "\nmore\n":        "",
			name:                     `in the middle of a line: "` + name,
			name + " \n":             "neither",
			name + "\r\n":            "neither",
			"\n":                     `stdin says "", which is neither`,
			"":                       "has ended, and said nothing",
			"\x1b[2J\n":              `"\x1b[2J"`,
			strings.Repeat("x", 1e5): "more than 4096 bytes",
		} {
			err := ask(strings.NewReader(in))(t.Context())
			if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || len(err.Error()) > 200) {
				t.Errorf("%.20q for %s: %v, want %s", in, name, err, want)
			}
		}
	}
	for in, want := range map[string]string{
		"failed\n":           `failed: ""`,
		"failed no memory\n": `failed: "no memory"`,
		"failed " + strings.Repeat("x", 999) + "\n": `failed: "xxx`,
		"failedly\n": "neither started nor failed",
	} {
		if err := o.start(strings.NewReader(in))(t.Context()); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v, want %s", in, err, want)
		}
	}
	if auto := (ownerFlag{who: "auto"}); auto.approve(nil) != nil || auto.start(nil) != nil {
		t.Error("somebody is asked")
	}
}

// TestOwnerIsSilent: what ends the attempt ends the wait.
func TestOwnerIsSilent(t *testing.T) {
	silent, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	time.AfterFunc(time.Millisecond, func() { cancel(gone) })
	o := ownerFlag{who: "external"}
	if err := o.approve(silent)(ctx); !errors.Is(err, gone) {
		t.Error(err)
	}
}

func TestOwnerEvents(t *testing.T) {
	a := transport.Attempt{Mig: transport.MigID{0xab}, Epoch: 3}
	for want, ev := range map[string]report.Event{
		`"migration":"ab000000000000000000000000000000","epoch":3,"downtime_ms":12.5}`: {Kind: report.Ready, Attempt: a, Downtime: 12500 * time.Microsecond},
		`"migration":"ab000000000000000000000000000000","epoch":3}`:                    {Kind: report.Accepted, Attempt: a},
	} {
		var b bytes.Buffer
		newJSONView("mig-send", io.Discard, &b).event(stamped{at: time.Now(), Event: ev})
		if got := b.String(); !strings.HasPrefix(got, `{"event":"`+string(ev.Kind)+`",`) || !strings.HasSuffix(got, want+"\n") {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
