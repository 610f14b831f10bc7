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

// occupiedFault is why another source is not served: the present attempt, and whether its source is
// connected.
func (e *engine) occupiedFault() *transport.Fault {
	code, what := transport.CodeLimit, "already serves"
	switch {
	case e.handoff.Resets():
		what = "resets its devices after"
	case e.handoff.HoldsCopy() && !e.conn.lostAt.IsZero():
		code, what = transport.CodeHeld, "holds the complete copy, and waits for the source, of"
	case !e.conn.lostAt.IsZero():
		what = "waits for the source of"
	}
	return &transport.Fault{Code: code, Err: fmt.Errorf("this destination %s migration %v, attempt %d", what, e.report.Attempt.Mig, e.report.Attempt.Epoch)}
}

// engaged reports whether this destination takes part in an attempt.
func (e *engine) engaged() bool { return e.offer != nil || e.handoff.Engaged() }

// handleFirst hands a control lane to the handler of its first message.
func (e *engine) handleFirst(ev admitted) {
	a := migration.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}
	if *ev.first.About() != a || a.Epoch == 0 {
		ev.lane.Close() // a message of no attempt, or not of its lane's
		return
	}
	if e.engaged() && e.journal != nil {
		checkBothMayRun(e.journal, a, ev.lane, e.raiseAlarm)
	}
	switch m := ev.first.(type) {
	case *wire.Resume:
		e.handleResume(ev, m)
	case *wire.Hello:
		e.handleHello(ev, m)
	case *wire.Query:
		e.handleQuery(ev, m)
	default:
		ev.lane.Close()
	}
}

// handleHello handles HELLO.
func (e *engine) handleHello(ev admitted, m *wire.Hello) {
	switch peer := transport.PeerOf(ev.lane); {
	case !e.engaged() && e.callers.answering.has(peer):
		e.callers.postpone(peer, ev)
	case !e.engaged():
		e.acceptHello(ev, m)
	case e.isRepeatedHello(ev, m):
		e.replaceControl(ev.control)
		e.conn.send(e.buildWelcome())
	case e.mayWaitNext(ev, m):
		e.callers.successor = &ev
	case e.opensNext(ev, m):
		e.callers.successor = &ev
		e.fail(&transport.Fault{Code: transport.CodeCancelled, Remote: true, Err: fmt.Errorf("the source has opened attempt %d", m.Epoch)})
	default:
		e.refuseCaller(ev, e.occupiedFault())
	}
}

// answered handles the end of a conversation that a HELLO may wait for.
func (e *engine) answered(peer transport.PeerID) {
	if ev, ok := e.callers.postponed[peer]; ok {
		delete(e.callers.postponed, peer)
		e.admitted(ev)
	}
}

// isRepeatedHello reports whether a source sends HELLO again because the lane was lost that carried
// WELCOME: it cannot have dialled a data lane.
func (e *engine) isRepeatedHello(ev admitted, m *wire.Hello) bool {
	return e.handoff.Receives() && !e.sourceHeardWelcome() &&
		m.Attempt == e.handoff.Attempt && m.Journal == e.offer.Journal && transport.IsPeer(ev.lane, e.report.Peer)
}

// sourceHeardWelcome reports whether the source is known to have received WELCOME: it has dialled a
// data lane, or an earlier process began the attempt. RESUME alone does not count.
func (e *engine) sourceHeardWelcome() bool { return len(e.pipe.dialledLanes()) > 0 || e.offer == nil }

// mayWaitNext reports whether a source may wait while the devices are reset, to be served next. It
// may with the next attempt of the migration that has ended, and with any migration after an
// attempt that ended empty.
func (e *engine) mayWaitNext(ev admitted, m *wire.Hello) bool {
	at := e.handoff.Attempt
	next := m.Mig == at.Mig && m.Epoch > at.Epoch && transport.IsPeer(ev.lane, e.report.Peer)
	return e.handoff.Resets() && e.callers.successor == nil && (next || e.endedEmpty())
}

// opensNext reports whether a source has ended the present attempt by opening the next one: it does
// so only when it owns its devices (rule R6).
func (e *engine) opensNext(ev admitted, m *wire.Hello) bool {
	at := e.handoff.Attempt
	undecided := e.handoff.Receives() || e.handoff.HoldsCopy()
	return undecided && e.callers.successor == nil && m.Mig == at.Mig && m.Epoch > at.Epoch && transport.IsPeer(ev.lane, e.report.Peer)
}

// handleResume handles RESUME.
func (e *engine) handleResume(ev admitted, m *wire.Resume) {
	if !e.engaged() && e.fleet.resumable() && e.callers.answering.any() {
		ev.lane.Close() // a peer that is being answered may have the journal: this one asks again
		return
	}
	e.resumeCopyFor(m, ev.lane)
	switch {
	case !e.engaged() || m.Mig != e.handoff.Attempt.Mig:
		e.answerFromJournal(ev, m)
	case !transport.IsPeer(ev.lane, e.report.Peer):
		e.refuseCaller(ev, &transport.Fault{Code: transport.CodeAuth, Err: errors.New("this attempt is another source's")})
	case e.journal == nil || m.Peer != e.journal.ID() || e.offer != nil && m.Journal != e.offer.Journal:
		e.refuseCaller(ev, &transport.Fault{Code: transport.CodeBusy, Err: errors.New("this attempt was made with another journal")})
	case m.Epoch != e.handoff.Attempt.Epoch:
		message := otherAttempt(e.handoff, m)
		e.callers.answer(ev, func(context.Context) { reply(ev.control, message) })
	default:
		e.reattach(ev)
	}
}

// handleQuery answers QUERY with the record, and changes nothing: QUERY claims no attempt.
func (e *engine) handleQuery(ev admitted, m *wire.Query) {
	if !e.engaged() || m.Mig != e.handoff.Attempt.Mig || e.journal == nil {
		e.callers.answer(ev, func(ctx context.Context) { answerQuery(ctx, ev, m, e.opts.Journals, e.postAlarm) })
		return
	}
	message := statusOf(m.Attempt, handoff.Entry{Attempt: e.handoff.Attempt, Journal: e.handoff.Journal, Record: e.handoff.Record, Digest: e.handoff.Digest}, transport.IsPeer(ev.lane, e.report.Peer))
	e.callers.answer(ev, func(context.Context) { reply(ev.control, message) })
}

// otherAttempt is the answer about another attempt of the present migration.
func otherAttempt(d handoff.Dest, m *wire.Resume) wire.Message {
	_, actions := d.Step(handoff.Received{Message: &wire.Cancel{Attempt: m.Attempt}})
	for _, a := range actions {
		if send, ok := a.(handoff.Send); ok {
			return send.Message
		}
	}
	return &wire.Declined{Attempt: m.Attempt, Code: transport.CodeBusy, Text: "this destination already serves another attempt"}
}

// reattach continues on a new control lane.
func (e *engine) reattach(ev admitted) {
	e.replaceControl(ev.control)
	e.stepHandoff(handoff.Received{Message: &wire.Query{Attempt: e.handoff.Attempt}})
	e.stepHandoff(handoff.Reached{})
}

// replaceControl takes a new control lane in place of the earlier one. This side may not have
// noticed that the earlier one is lost.
func (e *engine) replaceControl(control *wire.Control) {
	e.conn.replace(control)
	e.report.Over(control.Lane())
	e.emit(migration.Event{Kind: migration.Restored})
	if e.pipe.started() {
		e.pipe.acks.setControl(control)
	}
}

// mayReconnect reports whether a source may reconnect after its control lane ended with err: the
// end of a lane ends no attempt.
func (e *engine) mayReconnect(err error) bool {
	if e.handoff.Receives() {
		return wire.IsLaneEnd(err) && !e.conn.local
	}
	return e.handoff.HoldsCopy() || e.handoff.MayRunDevices()
}

// loseControl waits for a source whose control lane is lost.
func (e *engine) loseControl(err error) {
	e.conn.lose()
	if e.pipe.started() {
		e.pipe.acks.setControl(nil)
	}
	e.emit(migration.Event{Kind: migration.Lost, Text: err.Error()})
}
