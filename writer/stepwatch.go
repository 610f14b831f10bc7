package writer

import (
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// stepWatch steps the watch with the engine's facts, and carries out its actions.
func (e *engine) stepWatch() {
	for _, a := range e.watch.tick(time.Now(), e.gatherFacts()) {
		switch a := a.(type) {
		case endAttempt:
			e.sourceEnded = e.sourceEnded || a.sourceAlone
			e.endBy(a.fault, a.event)
		case loseConnection:
			e.loseControl(a.err)
		case endRunning:
			e.report.Warnings = append(e.report.Warnings, a.warning)
			e.stepHandoff(handoff.Unreachable{})
		case warnUser:
			e.emit(migration.Event{Kind: migration.Warning, Text: a.text})
		case reportHeld:
			e.emit(migration.Event{Kind: migration.Held, Peer: e.report.Peer, Attempt: e.handoff.Attempt})
		case holdCopy:
			e.holdCopy()
		}
	}
}

func (e *engine) gatherFacts() facts {
	f := facts{
		phase: e.handoff.Phase, times: &e.times, asksWitness: e.handoff.Asking,
		connected: e.conn.control != nil, local: e.conn.local, lostAt: e.conn.lostAt, heardAt: e.conn.heardAt, heardWelcome: e.sourceHeardWelcome(),
		dialled: len(e.pipe.dialledLanes()), holdAsked: e.opts.HoldCopy == nil || e.holdAsked,
		missing: e.pipe.lacksLane(),
	}
	if !e.pipe.started() || f.phase != handoff.DestReceiving {
		return f
	}
	f.applied = e.pipe.bytesApplied()
	f.arrived = e.pipe.bytesReceived() + f.applied // within one host only applied bytes are counted
	f.ended, f.owes = e.pipe.allEnded(), e.sourceOwes()
	return f
}

// sourceOwes reports whether the source reports remaining bytes, and no device here has any to
// write.
func (e *engine) sourceOwes() (owes bool) {
	stopped := !e.times.stopped.IsZero()
	for _, d := range e.devices {
		if _, idle := d.merge.status(); !idle {
			return false
		}
		pending := d.estimate.Initial > 0 || d.estimate.Dirty > 0
		if stopped || d.merge.hasEnd() {
			pending = d.remaining(stopped) > 0
		}
		owes = owes || pending
	}
	return owes && !e.pipe.allEnded()
}

// holdCopy ends Receive with the complete copy, as the user asked. It has no effect before the copy
// was reported as held.
func (e *engine) holdCopy() {
	if !e.watch.held {
		return
	}
	e.fault = &transport.Fault{Code: transport.CodeCancelled, Err: ErrCopyHeld}
	e.stepHandoff(handoff.Leave{})
}
