package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport/migration"
)

// asks are the events for the VMM that were emitted.
type asks struct{ queue []ask }

type ask struct {
	kind    migration.Kind
	attempt migration.Attempt
	line    string
	words   []string
}

func (a *asks) Ask(kind migration.Kind, about migration.Attempt) {
	a.queue = append(a.queue, ask{kind: kind, attempt: about})
}

func (a *asks) NotUnderstood(line string, words []string) {
	a.queue = append(a.queue, ask{kind: ui.NotUnderstood, line: line, words: words})
}

// asked is a VMM that has written all of in before, and what it is asked.
func asked(in io.Reader) (*owner, *asks) {
	s := &asks{}
	return (&ownerFlag{who: "external"}).by(in, s), s
}

// TestOwnerSays: one word means yes and one no. Any other line is answered by the words
// that are understood, and waited out.
func TestOwnerSays(t *testing.T) {
	const commit, cancel = "commit", "cancel"
	for in, want := range map[string]string{
		"commit\n":               "",
		"commit\nmore\n":         "",
		"commit":                 `in the middle of a line: "commit`,
		" commit \r\n":           "",
		"cancel\r\n":             "stdin says cancel",
		"":                       "has ended, and said nothing",
		"  ":                     "has ended, and said nothing",
		strings.Repeat("x", 1e5): "in the middle of a line",
	} {
		o, s := asked(strings.NewReader(in))
		err := o.answer(t.Context(), commit, cancel)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || len(err.Error()) > 200) {
			t.Errorf("%.20q: %v, want %s", in, err, want)
		}
		if len(s.queue) > 0 {
			t.Errorf("%.20q: told %v", in, s.queue)
		}
	}
	for _, line := range []string{"Commit", "commit now", "cancel it", "", "\x1b[2J", "paused", strings.Repeat("commit ", 1e4)} {
		o, s := asked(strings.NewReader(line + "\n" + commit + "\n"))
		if err := o.answer(t.Context(), commit, cancel); err != nil {
			t.Errorf("%.20q ends the wait: %v", line, err)
		}
		if len(s.queue) != 1 || s.queue[0].kind != ui.NotUnderstood || fmt.Sprint(s.queue[0].words) != "[commit cancel]" || !strings.HasPrefix(line, s.queue[0].line) {
			t.Errorf("%.20q: told %v", line, s.queue)
		}
	}
	for in, want := range map[string]string{
		"failed\n":                                  `failed: ""`,
		"failed  no memory \r\n":                    `failed: "no memory"`,
		"failedly\nfailed at last\n":                `failed: "at last"`,
		"failed " + strings.Repeat("x", 999) + "\n": `failed: "xxx`,
	} {
		o, _ := asked(strings.NewReader(in))
		if err := o.starts()(t.Context()); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v, want %s", in, err, want)
		}
	}
	if auto := (&ownerFlag{who: "auto"}).by(nil, nil); auto != nil || auto.starts() != nil {
		t.Error("somebody is asked")
	}
}

// TestOwnerIsAskedInTurn: each question is answered by a line of its own, and by the end of
// stdin for ever.
func TestOwnerIsAskedInTurn(t *testing.T) {
	a, opts := migration.Attempt{Epoch: 3}, &reader.Options{}
	o, s := asked(strings.NewReader("paused\nresumed\npaused\ncommit\n"))
	o.decides(a, opts)
	for _, ask := range []func(context.Context) error{opts.PauseGuest, opts.ResumeGuest, opts.PauseGuest, opts.Approve} {
		if err := ask(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := opts.ResumeGuest(t.Context()); err == nil || !strings.Contains(err.Error(), "stdin has ended") {
			t.Errorf("after the end: %v", err)
		}
	}
	var kinds []migration.Kind
	for _, ev := range s.queue {
		kinds = append(kinds, ev.kind)
		if ev.attempt != a {
			t.Errorf("asked about %v", ev.attempt)
		}
	}
	if got := fmt.Sprint(kinds); got != "[pause resume pause resume resume]" {
		t.Errorf("asked to %s", got)
	}
}

// TestOwnerIsSilent: what ends the attempt ends the wait.
func TestOwnerIsSilent(t *testing.T) {
	silent, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	time.AfterFunc(time.Millisecond, func() { cancel(gone) })
	o, _ := asked(silent)
	if err := o.answer(ctx, "commit", "cancel"); !errors.Is(err, gone) {
		t.Error(err)
	}
}
