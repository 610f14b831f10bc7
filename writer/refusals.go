package writer

import (
	"context"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// maxTurned is how many further sources are told at once why they are not served; the
// rest are told nothing.
const maxRefusing = 8

// refusals bounds what is told of sources that are not served, and how often attempts come to
// nothing: a source may try again without end. The first of a kind is told at once, the same
// one again ever more rarely.
type refusals struct {
	text       string // of the last
	at         time.Time
	every      time.Duration
	suppressed int // untold since

	lastEmpty time.Time // when the last attempt came to nothing
}

// attemptsEvery is the shortest time between the ends of two attempts that come to nothing:
// each of them resets the devices and leaves a journal.
const attemptsEvery = time.Second

// pause waits before the next source after an attempt that came to nothing. It ends with ctx.
func (r *refusals) pause(ctx context.Context) {
	select {
	case <-time.After(time.Until(r.lastEmpty.Add(attemptsEvery))):
	case <-ctx.Done():
	}
	r.lastEmpty = time.Now()
}

// How often refusals are told.
const (
	minRefusedEvery = time.Second
	maxRefusedEvery = time.Minute
)

// due reports whether a refusal is to be told, and how many were not since the last.
func (r *refusals) isDue(text string) (more int, due bool) {
	if time.Since(r.at) < r.every {
		r.suppressed++
		return 0, false
	}
	if text == r.text {
		r.every = min(2*r.every, maxRefusedEvery)
	} else {
		r.every = minRefusedEvery
	}
	more = r.suppressed
	r.text, r.at, r.suppressed = text, time.Now(), 0
	return more, true
}

// tellRefused tells of a source that was refused or let go of, and that the next is waited for.
func (e *engine) reportRefused(f *transport.Fault) {
	if more, due := e.callers.refusals.isDue(e.report.Peer.String() + f.Error()); due {
		e.emit(migration.Event{Kind: migration.Refused, Peer: e.report.Peer, Attempt: e.report.Attempt, Err: f, More: more})
	}
}

// tellTurned tells of a source that came beside another one.
func (e *engine) reportTurnedAway(lane transport.Lane, why string) {
	text := fmt.Sprintf("another source came and was turned away%s: %s", peerText(lane), why)
	if _, due := e.callers.refusals.isDue(text); due {
		e.emit(migration.Event{Kind: migration.Warning, Text: text})
	}
}

// cameToNothing reports whether an attempt that is over was ended by its source alone, before a
// byte of its streams had come: no device here is to blame, and all have been reset.
func (e *engine) endedEmpty() bool {
	return e.sourceEnded && !e.streamsBegun() && e.callers.acceptErr == nil && !e.stuck
}

// begunStreams reports whether a byte of the source's streams has come.
func (e *engine) streamsBegun() bool {
	for _, d := range e.devices {
		if d.received.Load() > 0 || d.bytesApplied() > 0 {
			return true
		}
	}
	return false
}

// turnAway tells a source that this destination serves another.
func sendRefusal(ev admitted, why *transport.Fault) {
	reply(wire.NewControl(ev.lane), &wire.Declined{
		Attempt: migration.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}, Code: why.Code, Text: why.Err.Error()})
}

// reply tells a source that is not served one thing, and hangs up. Nobody else may be
// reading its lane.
func reply(control *wire.Control, m wire.Message) {
	lane := control.Lane()
	lane.SetDeadline(time.Now().Add(time.Second))
	control.Send(m)
	wire.HangUp(lane, func() {
		for {
			if _, err := control.Receive(); err != nil {
				return
			}
		}
	})
}

// from names the peer of a lane, where it has a name.
func peerText(l transport.Lane) string {
	if id := transport.PeerOf(l); id != (transport.PeerID{}) {
		return " (" + id.String() + ")"
	}
	return ""
}
