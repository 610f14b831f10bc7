package writer

import (
	"context"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// maxRefusing is how many further sources get a reason for their refusal at once. The rest get
// none.
const maxRefusing = 8

// refusals bounds how often refused sources are reported, and how often attempts end empty: a
// source may try again without end. The first refusal of a kind is reported at once, and its
// repetitions at growing intervals.
type refusals struct {
	text       string // of the last one
	at         time.Time
	every      time.Duration
	suppressed int // not reported since

	lastEmpty time.Time // when the last attempt ended empty
}

// attemptsEvery is the shortest time between two attempts that end empty: each of them resets the
// devices and leaves a journal.
const attemptsEvery = time.Second

// pause waits before the next source after an attempt that ended empty. It ends with ctx.
func (r *refusals) pause(ctx context.Context) {
	select {
	case <-time.After(time.Until(r.lastEmpty.Add(attemptsEvery))):
	case <-ctx.Done():
	}
	r.lastEmpty = time.Now()
}

// The bounds of the time between two reports of refusals.
const (
	minRefusedEvery = time.Second
	maxRefusedEvery = time.Minute
)

// isDue reports whether a refusal is to be reported, and how many were not since the last report.
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

// reportRefused reports a source that was refused, or whose attempt was ended. Receive waits for
// the next one.
func (e *engine) reportRefused(f *transport.Fault) {
	if more, due := e.callers.refusals.isDue(e.report.Peer.String() + f.Error()); due {
		e.emit(migration.Event{Kind: migration.Refused, Peer: e.report.Peer, Attempt: e.report.Attempt, Err: f, More: more})
	}
}

// reportTurnedAway reports a source that came beside the one that is served.
func (e *engine) reportTurnedAway(lane transport.Lane, why string) {
	text := fmt.Sprintf("another source came and was turned away%s: %s", peerText(lane), why)
	if _, due := e.callers.refusals.isDue(text); due {
		e.emit(migration.Event{Kind: migration.Warning, Text: text})
	}
}

// endedEmpty reports whether only the source ended the attempt, before a byte of its streams had
// come: no device here is the cause, and all were reset.
func (e *engine) endedEmpty() bool {
	return e.sourceEnded && !e.streamsBegun() && e.callers.acceptErr == nil && !e.stuck
}

// streamsBegun reports whether a byte of the source's streams has come.
func (e *engine) streamsBegun() bool {
	for _, d := range e.devices {
		if d.received.Load() > 0 || d.bytesApplied() > 0 {
			return true
		}
	}
	return false
}

// sendRefusal declines a source, because this destination serves another.
func sendRefusal(ev admitted, why *transport.Fault) {
	reply(wire.NewControl(ev.lane), &wire.Declined{
		Attempt: migration.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}, Code: why.Code, Text: why.Err.Error()})
}

// reply sends one message to a source that is not served, and hangs up. No other goroutine may read
// its lane.
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

// peerText names the peer of a lane, if it has a name.
func peerText(l transport.Lane) string {
	if id := transport.PeerOf(l); id != (transport.PeerID{}) {
		return " (" + id.String() + ")"
	}
	return ""
}
