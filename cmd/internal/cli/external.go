package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// ownerHelp is the part of the help texts about a VMM that decides. The second half
// is of each program's own.
const ownerHelp = `With --commit external a VMM decides about the VM and its devices at once: events on
stdout ask it, and it answers by a line on stdin. Stdin is not read before. Spaces and
CR around a line do not count. A line that is not understood changes nothing: the event
"not-understood" names the words that are (line, words). A VMM that starts or resumes a
device by itself, without that, voids the promise that none runs twice.
`

const sendOwnerHelp = ownerHelp + `The event "pause" (migration, epoch) asks for the guest to be paused, before any device
leaves RUNNING; the line "paused" says that it is. The event "ready" (migration, epoch,
downtime_ms so far) says that all is loaded at the destination; the line "commit" gives
the devices up. To both, "cancel" takes the devices back, and so does the end of stdin, a
signal, --resume-after, and whatever else ends a migration meanwhile. The event "resume"
(migration, epoch) asks for the guest to be resumed, on every way back of the devices and
after a stop that was called off; the line "resumed" says that it runs. "failed TEXT", the
end of stdin and 10 s without an answer end that wait, and the outcome names it
("guest_unheard"). Only the event "done" says who may run.`

const recvOwnerHelp = ownerHelp + `The event "accept" (migration, epoch) says that the devices are this side's and run.
The line "started" says that the guest runs: only then does the source let go, which
waits for it as in doubt. "failed TEXT" and the end of stdin, but no signal, end the
wait: the guest may have run, the outcome is needs-reset, and the source
stays in doubt.`

// ownerFlag selects who decides about the whole VM.
type ownerFlag struct{ who string }

func (o *ownerFlag) add(cmd *cobra.Command) {
	input.Word(cmd, &o.who, "commit", "`WHO` decides about the switchover: auto, or external, by a line on stdin", "auto", "external")
}

// external reports whether a VMM is asked.
func (o *ownerFlag) external() bool { return o.who == "external" }

func (o *ownerFlag) check(json bool) error {
	if o.external() && !json {
		return ui.Mistakef("say --json too: an event asks for each answer", "--commit external: no event asks the VMM without --json")
	}
	return nil
}

// owner is the VMM: events ask it, and lines on stdin are its answers.
type owner struct {
	in   io.Reader
	show asker

	once  sync.Once
	lines chan string
	end   error // why no more lines come, once lines is closed
}

// asker emits the events for the VMM.
type asker interface {
	Ask(kind migration.Kind, a migration.Attempt)
	NotUnderstood(line string, words []string)
}

// by is the VMM that is asked, nil where none is.
func (o *ownerFlag) by(in io.Reader, show asker) *owner {
	if !o.external() {
		return nil
	}
	return &owner{in: in, show: show, lines: make(chan string)}
}

// decides has the VMM decide about the source's half of the switchover of an attempt.
func (o *owner) decides(a migration.Attempt, opts *reader.Options) {
	if o == nil {
		return
	}
	opts.PauseGuest = func(ctx context.Context) error {
		o.show.Ask(ui.AskPause, a)
		return notPaused(o.answer(ctx, "paused", "cancel"))
	}
	opts.ResumeGuest = func(ctx context.Context) error {
		o.show.Ask(ui.AskResume, a)
		return o.answer(ctx, "resumed", "failed TEXT")
	}
	opts.Approve = func(ctx context.Context) error { return o.answer(ctx, "commit", "cancel") }
}

// notPaused is the error of a guest whose owner does not pause it.
func notPaused(err error) error {
	if err == nil {
		return nil
	}
	return &transport.Fault{Code: transport.CodeCancelled, Err: err}
}

// starts is writer.Options.StartGuest by a line of the VMM, nil without a VMM.
func (o *owner) starts() func(context.Context) error {
	if o == nil {
		return nil
	}
	return func(ctx context.Context) error { return o.answer(ctx, "started", "failed TEXT") }
}

// answer waits for a line with the word yes or no. For any other line it emits an event with
// both words.
func (o *owner) answer(ctx context.Context, yes, no string) error {
	o.once.Do(func() { go o.read() }) // ends with stdin, or with the process: nothing calls a read of a pipe off
	no, withText := strings.CutSuffix(no, " TEXT")
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, ok := <-o.lines:
			word, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case !ok:
				return o.end
			case word == yes && text == "":
				return nil
			case word == no && withText:
				return fmt.Errorf("stdin says that it failed: %.200q", strings.TrimSpace(text))
			case word == no && text == "":
				return fmt.Errorf("stdin says %s", no)
			}
			words := []string{yes, no}
			if withText {
				words[1] += " TEXT"
			}
			o.show.NotUnderstood(line, words)
		}
	}
}

// maxLine is the longest line that may be understood. Of a longer one the rest is skipped.
const maxLine = 4096

// read reads lines to the end of stdin. A last one without an end is none: its writer may
// not have meant the half.
func (o *owner) read() {
	defer close(o.lines)
	in := bufio.NewReaderSize(o.in, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		text := string(line)
		for err == bufio.ErrBufferFull {
			_, err = in.ReadSlice('\n')
		}
		switch {
		case err == io.EOF && strings.TrimSpace(text) == "":
			o.end = errors.New("stdin has ended, and said nothing")
		case err == io.EOF:
			o.end = fmt.Errorf("stdin has ended in the middle of a line: %.80q", text)
		case err != nil:
			o.end = fmt.Errorf("stdin: %w", err)
		}
		if err != nil {
			return
		}
		o.lines <- strings.TrimRight(text, "\r\n")
	}
}
