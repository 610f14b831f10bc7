package ui

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// linesEvery is the time between two lines about a device.
const linesEvery = 3 * time.Second

// lineView is for logs: a line when something changes and every few seconds.
type lineView struct {
	program  string
	err, out io.Writer
	meters   meters
	progress time.Time
	last     map[string]string // the last line of a device that has ended
}

func newLineView(program string, err, out io.Writer) *lineView {
	return &lineView{program: program, err: err, out: out, meters: meters{}, last: map[string]string{}}
}

func (l *lineView) event(ev stamped) {
	switch ev.Kind {
	case migration.Phase:
		l.print(phaseText(ev.Event))
	case migration.Progress:
		l.move(ev)
	case held, migration.Alarm: // Observer writes them to stderr for every view
	case confined: // for --json
	default:
		l.print(notice(ev.Event))
	}
}

// notice is the line about an event that is no progress.
func notice(ev migration.Event) string {
	switch ev.Kind {
	case migration.Listening:
		return "listening on " + ev.Text
	case serving:
		return "metrics on " + ev.Text
	case migration.Peer:
		if ev.Peer == (transport.PeerID{}) {
			return "peer runs " + ev.Text
		}
		return "peer " + ev.Peer.Short() + " runs " + ev.Text
	case migration.Asked:
		return askedText(ev)
	case migration.Refused:
		return refusedText(ev)
	case migration.Lost:
		return "waiting for a new connection: " + lostText(ev)
	case migration.Restored:
		return "connected again"
	}
	return string(ev.Kind) + ": " + OneLine(ev.Text)
}

// lostText is why a connection is lost, without the names of what has noticed.
func lostText(ev migration.Event) string {
	at := strings.Index(ev.Text, transport.ErrLost.Error())
	return PlainText(errors.New(ev.Text[max(0, at):]))
}

// phaseText is the new phase, why it began where that is known, and what it is
// expected to take.
func phaseText(ev migration.Event) string {
	text := ev.Phase
	if ev.Text != "" {
		text += ": " + ev.Text
	}
	if ev.Predicted != nil {
		text += ", " + spanText(ev.Predicted.Downtime)
	}
	return text
}

func (l *lineView) print(text string) { fmt.Fprintf(l.err, "%s: %s\n", l.program, text) }

func (l *lineView) move(ev stamped) {
	at, list := ev.at, l.meters.progress(ev)
	if l.progress.IsZero() {
		l.progress = at // nothing to say yet
	}
	if at.Sub(l.progress) < linesEvery {
		return
	}
	l.progress = at
	for _, s := range list {
		line := statusLine(s)
		if s.ended && line == l.last[s.Name] { // in doubt that would go on for ever
			continue
		}
		l.last[s.Name] = line
		l.print(line)
	}
	if text := waitingText(ev.Waiting); text != "" {
		l.print(text)
	}
	if text := occupancyText(ev.Occupancy); text != "" {
		l.print("stages: " + text)
	}
}

func statusLine(s status) string {
	parts := []string{s.Name + " " + s.Phase, s.amount()}
	speed := s.speed()
	if s.idle >= linesEvery && !s.ended {
		speed = fmt.Sprintf("no data for %.0f s", s.idle.Seconds())
	}
	for _, text := range []string{speed, s.rest()} {
		if text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ", ")
}

func (l *lineView) end(v Result) { printReport(l.out, v) }

// refusedText is the line about the same.
func refusedText(ev migration.Event) string {
	text := "refused a source"
	if ev.Peer != (transport.PeerID{}) {
		text += " (" + ev.Peer.Short() + ")"
	}
	if ev.More > 0 {
		text += fmt.Sprintf(", and %d more since the last line", ev.More)
	}
	text += ": " + ErrorText(ev.Err)
	if hints := refusedHints(ev.Err); len(hints) > 0 {
		text += " (" + strings.Join(hints, "; ") + ")"
	}
	return text + "; waiting for the next"
}
