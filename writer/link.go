package writer

import (
	"context"
	"errors"
	"fmt"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// occupied is why another source is not served: the attempt at hand, and whether its source is
// there.
func (e *engine) occupied() *transport.Fault {
	code, what := transport.CodeLimit, "already serves"
	switch {
	case e.owner.Resets():
		what = "resets its devices after"
	case e.owner.HoldsCopy() && !e.conn.lostAt.IsZero():
		code, what = transport.CodeHeld, "holds the complete copy, and waits for the source, of"
	case !e.conn.lostAt.IsZero():
		what = "waits for the source of"
	}
	return &transport.Fault{Code: code, Err: fmt.Errorf("this destination %s migration %v, attempt %d", what, e.out.Attempt.Mig, e.out.Attempt.Epoch)}
}

// engaged reports whether there is an attempt that this destination has a part in.
func (e *engine) engaged() bool { return e.offer != nil || e.owner.Engaged() }

// greeted gives a control lane to those who are meant by its first message.
func (e *engine) greeted(ev admitted) {
	a := migration.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}
	if *ev.first.About() != a || a.Epoch == 0 {
		ev.lane.Close() // of no attempt, or of another than its lane: it costs nobody anything
		return
	}
	if e.engaged() && e.journal != nil {
		meet(e.journal, a, ev.lane, e.raise)
	}
	switch m := ev.first.(type) {
	case *wire.Resume:
		e.resume(ev, m)
	case *wire.Hello:
		e.offered(ev, m)
	case *wire.Query:
		e.queried(ev, m)
	default:
		ev.lane.Close()
	}
}

// offered takes in HELLO.
func (e *engine) offered(ev admitted, m *wire.Hello) {
	switch peer := transport.PeerOf(ev.lane); {
	case !e.engaged() && e.callers.answering.has(peer):
		e.callers.postpone(peer, ev)
	case !e.engaged():
		e.hello(ev, m)
	case e.unanswered(ev, m):
		e.moveTo(ev.control)
		e.conn.send(e.welcome())
	case e.mayFollow(ev, m):
		e.callers.successor = &ev
	case e.follows(ev, m):
		e.callers.successor = &ev
		e.failed(&transport.Fault{Code: transport.CodeCancelled, Remote: true, Err: fmt.Errorf("the source has opened attempt %d", m.Epoch)})
	default:
		e.turnAway(ev, e.occupied())
	}
}

// answered takes in the end of a conversation that a HELLO may have waited for.
func (e *engine) answered(peer transport.PeerID) {
	if ev, ok := e.callers.postponed[peer]; ok {
		delete(e.callers.postponed, peer)
		e.admitted(ev)
	}
}

// unanswered reports whether a source says HELLO again because the lane was lost over which
// WELCOME went: it cannot have dialled a data lane.
func (e *engine) unanswered(ev admitted, m *wire.Hello) bool {
	return e.owner.Receives() && !e.taken() &&
		m.Attempt == e.owner.Attempt && m.Journal == e.offer.Journal && transport.IsPeer(ev.lane, e.out.Peer)
}

// taken reports whether the source is known to have heard WELCOME: it has dialled a data lane,
// or a process before this one has begun the attempt. RESUME alone does not count.
func (e *engine) taken() bool { return len(e.pipe.dialled()) > 0 || e.offer == nil }

// mayFollow reports whether a source may wait while the devices are reset, to be served next:
// with the next attempt of the migration that has ended, or with any where that came to nothing.
func (e *engine) mayFollow(ev admitted, m *wire.Hello) bool {
	at := e.owner.Attempt
	next := m.Mig == at.Mig && m.Epoch > at.Epoch && transport.IsPeer(ev.lane, e.out.Peer)
	return e.owner.Resets() && e.callers.successor == nil && (next || e.cameToNothing())
}

// follows reports whether a source has given up the attempt at hand, by opening the
// next: it does so only when its devices are its own (rule R6).
func (e *engine) follows(ev admitted, m *wire.Hello) bool {
	at := e.owner.Attempt
	undecided := e.owner.Receives() || e.owner.HoldsCopy()
	return undecided && e.callers.successor == nil && m.Mig == at.Mig && m.Epoch > at.Epoch && transport.IsPeer(ev.lane, e.out.Peer)
}

// resume takes in RESUME.
func (e *engine) resume(ev admitted, m *wire.Resume) {
	if !e.engaged() && e.fleet.resumable() && e.callers.answering.any() {
		ev.lane.Close() // whoever is answered may have the journal: it asks again
		return
	}
	e.resumeFor(m, ev.lane)
	switch {
	case !e.engaged() || m.Mig != e.owner.Attempt.Mig:
		e.answer(ev, m)
	case !transport.IsPeer(ev.lane, e.out.Peer):
		e.turnAway(ev, &transport.Fault{Code: transport.CodeAuth, Err: errors.New("this attempt is another source's")})
	case e.journal == nil || m.Peer != e.journal.ID() || e.offer != nil && m.Journal != e.offer.Journal:
		e.turnAway(ev, &transport.Fault{Code: transport.CodeBusy, Err: errors.New("this attempt was made with another journal")})
	case m.Epoch != e.owner.Attempt.Epoch:
		said := otherAttempt(e.owner, m)
		e.callers.tell(ev, func(context.Context) { reply(ev.control, said) })
	default:
		e.rejoin(ev)
	}
}

// queried tells what is recorded, and goes on with what it does: the question is
// nobody's claim.
func (e *engine) queried(ev admitted, m *wire.Query) {
	if !e.engaged() || m.Mig != e.owner.Attempt.Mig || e.journal == nil {
		e.callers.tell(ev, func(ctx context.Context) { inform(ctx, ev, m, e.opts.Journals, e.alarm) })
		return
	}
	said := statusOf(m.Attempt, handoff.Entry{Attempt: e.owner.Attempt, Journal: e.owner.Journal, Record: e.owner.Record, Digest: e.owner.Digest}, transport.IsPeer(ev.lane, e.out.Peer))
	e.callers.tell(ev, func(context.Context) { reply(ev.control, said) })
}

// otherAttempt answers about another attempt of the migration at hand.
func otherAttempt(d handoff.Dest, m *wire.Resume) wire.Message {
	_, actions := d.Step(handoff.Received{Message: &wire.Cancel{Attempt: m.Attempt}})
	for _, a := range actions {
		if send, ok := a.(handoff.Send); ok {
			return send.Message
		}
	}
	return &wire.Declined{Attempt: m.Attempt, Code: transport.CodeBusy, Text: "this destination already serves another attempt"}
}

// rejoin goes on over a new control lane.
func (e *engine) rejoin(ev admitted) {
	e.moveTo(ev.control)
	e.own(handoff.Received{Message: &wire.Query{Attempt: e.owner.Attempt}})
	e.own(handoff.Reached{})
}

// moveTo takes a new control lane in place of the one before. That this is lost, this side
// may not have noticed.
func (e *engine) moveTo(control *wire.Control) {
	e.conn.replace(control)
	e.out.Over(control.Lane())
	e.tell(migration.Event{Kind: migration.Restored})
	if e.pipe.loads() {
		e.pipe.acks.use(control)
	}
}

// mayReturn reports whether a source whose control lane has ended may come back: the end
// of a lane ends no attempt.
func (e *engine) mayReturn(err error) bool {
	if e.owner.Receives() {
		return wire.Ended(err) && !e.conn.local
	}
	return e.owner.HoldsCopy() || e.owner.MayRunDevices()
}

// lose waits for a source whose control lane is lost.
func (e *engine) lose(err error) {
	e.conn.lose()
	if e.pipe.loads() {
		e.pipe.acks.use(nil)
	}
	e.tell(migration.Event{Kind: migration.Lost, Text: err.Error()})
}
