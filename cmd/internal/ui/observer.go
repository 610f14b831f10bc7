// Package ui is what a user of mig-send and mig-recv sees: progress, events as JSON, reports,
// metrics, errors with hints, and exit codes.
package ui

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Observer shows the user the progress and the result of a run. It shows events in a goroutine
// of its own: the engine must not wait for a terminal or a pipe.
type Observer struct {
	program string
	to      outlets
	view    view
	latest  latest

	mu       sync.Mutex
	attempt  migration.Attempt // that this side works on, zero for none
	queue    []stamped
	closed   bool
	warned   time.Time // of a peer that was turned away
	rejected time.Time // of a peer that has rejected this side
	turned   []string  // those warnings, the first maxTurned of them
	wake     chan struct{}
	done     chan struct{}
}

// NewObserver starts an observer. [Observer.End] ends it.
func NewObserver(program string, json, quiet bool) *Observer {
	to := newOutlets(program)
	s := &Observer{program: program, to: to, view: newView(program, json, quiet, to), wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.tell() // end ends it
	return s
}

// newView is what the user asked for.
func newView(program string, json, quiet bool, to outlets) view {
	switch {
	case json:
		return newJSONView(program, to.err, to.out)
	case quiet:
		return quietView{}
	case term.IsTerminal(int(os.Stderr.Fd())):
		return newBarView(program, to.err, to.out)
	}
	return newLineView(program, to.err, to.out)
}

// Observe is a migration.Observer. An attempt that was refused is not worked on any more; that
// of an alarm, or of a preflight, never was.
func (s *Observer) Observe(ev migration.Event) {
	switch ev.Kind {
	case migration.Refused:
		s.About(migration.Attempt{})
	case migration.Alarm, migration.Asked:
	default:
		if ev.Attempt != (migration.Attempt{}) {
			s.About(ev.Attempt)
		}
	}
	s.add(stamped{at: time.Now(), Event: ev})
}

// About sets the attempt of the events that follow.
func (s *Observer) About(a migration.Attempt) {
	s.mu.Lock()
	s.attempt = a
	s.mu.Unlock()
}

// Listening is the first event of mig-recv.
func (s *Observer) Listening(address string, self transport.PeerID) {
	s.add(stamped{at: time.Now(), Event: migration.Event{Kind: migration.Listening, Text: address}, self: self})
}

// Warn emits a warning.
func (s *Observer) Warn(text string) {
	s.add(stamped{at: time.Now(), Event: migration.Event{Kind: migration.Warning, Text: text}})
}

// Confined emits what the sandbox restricts.
func (s *Observer) Confined(status sandbox.Status) {
	s.add(stamped{at: time.Now(), Event: migration.Event{Kind: confined}, sandbox: status})
}

// Carrying emits the choice of a carrier.
func (s *Observer) Carrying(all []reader.Candidate) {
	s.add(stamped{at: time.Now(), Event: migration.Event{Kind: carrying, Text: carryingText(all)}, tried: all})
}

// Hold emits that the process holds devices in doubt.
func (s *Observer) Hold(v Result) {
	s.Stay("in doubt: "+ErrorText(v.Err), v.Scene)
}

// Stay emits what the process holds.
func (s *Observer) Stay(text string, of Scene) {
	s.add(stamped{at: time.Now(), Event: migration.Event{Kind: held, Text: text}, held: of})
}

// refusedEvery is the shortest time between two warnings about refused peers: a stranger can
// try at any rate.
const refusedEvery = time.Second

// maxTurned is how many of them the report repeats.
const maxTurned = 4

// Refused warns of a peer that was turned away, or that has turned this side away.
func (s *Observer) Refused(err error) {
	now, text, last := time.Now(), turnedText(err), &s.warned
	if errors.Is(err, transport.ErrRefusedByPeer) {
		last = &s.rejected
	}
	s.mu.Lock()
	tooSoon := now.Sub(*last) < refusedEvery
	if !tooSoon {
		*last = now
		if len(s.turned) < maxTurned {
			s.turned = append(s.turned, text)
		}
	}
	s.mu.Unlock()
	if !tooSoon {
		s.add(stamped{at: time.Now(), Event: migration.Event{Kind: migration.Warning, Text: text}})
	}
}

// turnedText is the warning about a peer that was refused, or that has refused this side.
func turnedText(err error) string {
	if !errors.Is(err, transport.ErrRefusedByPeer) {
		text := "turned a peer away: " + ErrorText(err)
		if e, ok := errors.AsType[*transport.CertificateError](err); ok {
			text += "; " + e.Hint
		}
		return text
	}
	who, _, _ := strings.Cut(err.Error(), ": ")
	return who + " has rejected this side: " + ErrorText(err) + "; compare its --peer, or its CA and --peer-name, with this side's identity"
}

// add queues an event. Of progress that is not shown yet, only the newest stays. No event waits
// for a reader here: an outlet takes it at once.
func (s *Observer) add(ev stamped) {
	s.latest.note(ev.Event)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ev.Attempt == (migration.Attempt{}) && ev.Kind != migration.Refused && ev.Kind != migration.Asked {
		ev.Attempt = s.attempt
	}
	last := len(s.queue) - 1
	if ev.Kind == migration.Progress && last >= 0 && s.queue[last].Kind == migration.Progress {
		s.queue = s.queue[:last]
	}
	s.queue = append(s.queue, ev)
	s.wakeUp()
}

func (s *Observer) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Observer) tell() {
	defer close(s.done)
	for range s.wake {
		s.mu.Lock()
		queue, closed := s.queue, s.closed
		s.queue = nil
		s.mu.Unlock()
		for _, ev := range queue {
			s.view.event(ev)
			switch ev.Kind { // as serious as the errors of the end
			case held:
				complain(s.to.err, s.program, ev.Text, ev.held.holdHints())
			case migration.Alarm:
				complain(s.to.err, s.program, alarmText(ev.Event), bothHints)
			}
		}
		if closed {
			return
		}
	}
}

// End shows the result, errors and hints last, and returns the exit code. It waits for no
// reader.
func (s *Observer) End(v Result) int {
	s.mu.Lock()
	s.closed = true
	v.Report.Warnings = append(v.Report.Warnings, s.turned...)
	s.wakeUp()
	s.mu.Unlock()
	<-s.done
	s.to.err.drain() // both may be one terminal
	s.view.end(v)
	s.to.out.drain()
	if v.Err != nil {
		complain(s.to.err, s.program, ErrorText(v.Err), v.Hints(v.Report.Outcome, v.Err))
	}
	s.to.finish(s.program)
	return v.Exit()
}

// Stderr is where errors and hints go. A write never waits for the reader.
func (s *Observer) Stderr() io.Writer { return s.to.err }

// Refuse reports a command line that did not run, and returns the exit code.
func Refuse(program string, json bool, v Result) int {
	to := newOutlets(program)
	if json {
		newJSONView(program, to.err, to.out).end(v)
	}
	complain(to.err, program, ErrorText(v.Err), v.Hints(v.Report.Outcome, v.Err))
	to.finish(program)
	return v.Exit()
}

// complain writes an error and what to do about it, one line each.
func complain(w io.Writer, program, text string, hints []string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: error: %s\n", program, text)
	for _, hint := range hints {
		fmt.Fprintf(&b, "%s: hint: %s\n", program, hint)
	}
	_ = put(w, b.Bytes(), true)
}
