package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport"
)

// ownerHelp is the part of the help texts about a VMM that decides. The second half
// is of each program's own.
const ownerHelp = `With --commit external a VMM decides about the VM and its devices at once: events on
stdout ask it, and it answers by a line on stdin. Stdin is not read before. A VMM that
starts or resumes a device by itself, without that, voids the promise that none runs
twice.
`

const sendOwnerHelp = ownerHelp + `The event "ready" (migration, epoch, downtime_ms so far) says that all is loaded at
the destination. The line "commit" gives the devices up; "cancel" takes them back, and
so does any other line, the end of stdin, a signal, --max-downtime, and whatever else
ends a migration meanwhile. Only the event "done" says who may run.`

const recvOwnerHelp = ownerHelp + `The event "accept" (migration, epoch) says that the devices are this side's and run.
The line "started" says that the guest runs: only then does the source let go, which
waits for it as in doubt. "failed TEXT", any other line and the end of stdin, but no
signal, end the wait: the guest may have run, the outcome is needs-reset, and the source
stays in doubt.`

// ownerFlag says who decides about the whole VM.
type ownerFlag struct{ who string }

func (o *ownerFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.who, "commit", "auto", "`WHO` decides about the switchover: auto, or external, by a line on stdin")
	_ = cmd.RegisterFlagCompletionFunc("commit", completeWords("auto", "external"))
}

// external reports whether a VMM is asked.
func (o *ownerFlag) external() bool { return o.who == "external" }

func (o *ownerFlag) check(json bool) error {
	switch {
	case o.who != "auto" && o.who != "external":
		return mistakef("it is auto or external", "--commit: unknown %.20q", o.who)
	case o.external() && !json:
		return mistakef("say --json too: an event says when the word is wanted", "--commit external: nobody is told when to decide")
	}
	return nil
}

// owns reports whether a descriptor is the one that the owner's word comes from.
func (o *ownerFlag) owns(n int) bool { return o.external() && n == unix.Stdin }

// approve is reader.Options.Approve by a line, nil where nobody is asked.
func (o *ownerFlag) approve(in io.Reader) func(context.Context) error {
	if !o.external() {
		return nil
	}
	return func(ctx context.Context) error {
		line, err := readLine(ctx, in)
		switch {
		case err != nil:
			return err
		case line == "commit":
			return nil
		case line == "cancel":
			return errors.New("stdin says cancel")
		}
		return fmt.Errorf("stdin says %.80q, which is neither commit nor cancel", line)
	}
}

// start is writer.Options.StartGuest by a line, nil where nobody is asked.
func (o *ownerFlag) start(in io.Reader) func(context.Context) error {
	if !o.external() {
		return nil
	}
	return func(ctx context.Context) error {
		line, err := readLine(ctx, in)
		word, text, _ := strings.Cut(line, " ")
		switch {
		case err != nil:
			return err
		case line == "started":
			return nil
		case word == "failed":
			return fmt.Errorf("stdin says that it failed: %.200q", text)
		}
		return fmt.Errorf("stdin says %.80q, which is neither started nor failed", line)
	}
}

// maxLine is the longest line that is read.
const maxLine = 4096

// readLine reads one line, unless ctx ends before. What is behind it is nobody's any
// more: it is called once in a process.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	type read struct {
		line []byte
		err  error
	}
	done := make(chan read, 1)
	go func() { // ends with the line, or with the process: nothing calls a read of a pipe off
		line, err := bufio.NewReaderSize(in, maxLine).ReadSlice('\n')
		done <- read{line, err}
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case r := <-done:
		return wholeLine(string(r.line), r.err)
	}
}

// wholeLine takes no line that has no end: who wrote it may not have meant the half.
func wholeLine(line string, err error) (string, error) {
	switch {
	case err == io.EOF && line == "":
		return "", errors.New("stdin has ended, and said nothing")
	case err == io.EOF:
		return "", fmt.Errorf("stdin has ended in the middle of a line: %.80q", line)
	case err == bufio.ErrBufferFull:
		return "", fmt.Errorf("stdin has a line of more than %d bytes: %.80q", maxLine, line)
	case err != nil:
		return "", fmt.Errorf("stdin: %w", err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// jsonAttempt is the fencing token.
type jsonAttempt struct {
	Migration string `json:"migration"`
	Epoch     uint64 `json:"epoch"`
}

func newJSONAttempt(a transport.Attempt) jsonAttempt { return jsonAttempt{a.Mig.String(), a.Epoch} }

// jsonReady asks the owner whether to commit.
type jsonReady struct {
	jsonHead
	jsonAttempt
	DowntimeMS float64 `json:"downtime_ms"` // so far
}

// jsonAccept asks the owner to start the guest.
type jsonAccept struct {
	jsonHead
	jsonAttempt
}
