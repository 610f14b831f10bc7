package reader

import (
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// stepWatch steps the watch with the engine's facts, and carries out its actions.
func (e *engine) stepWatch() {
	for _, a := range e.watch.tick(time.Now(), e.gatherFacts()) {
		switch a := a.(type) {
		case endAttempt:
			e.endBy(a.fault, a.event)
		case notifyHandoff:
			e.stepHandoff(a.event)
		case warnUser:
			if a.lasting {
				e.report.Warnings = append(e.report.Warnings, a.text)
			} else {
				e.emit(migration.Event{Kind: migration.Warning, Text: a.text})
			}
		}
	}
}

func (e *engine) gatherFacts() facts {
	f := facts{
		phase: e.handoff.Phase, plan: e.plan.Phase(), times: &e.times, predicted: e.report.Predicted,
		noLaneSince: e.pipe.noLaneSince, lostAt: e.conn.lostAt, lossCause: e.conn.lossCause, refusal: e.conn.refusal,
		doubtLimit: e.opts.doubtLimit(), cancelledAt: e.times.cancelled,
		witness: e.handoff.Witness != 0, empty: e.handoff.Empty, sole: e.handoff.Sole,
	}
	for i, d := range e.devices {
		f.moved += d.bytesRead() + d.applied
		if f.slowest == "" && !e.plan.HasEnded(i) {
			f.slowest, f.offset = d.Name, d.bytesRead()
		}
	}
	return f
}

// stallLimit is how long nothing may be read of a lane of this migration.
func (e *engine) stallLimit() time.Duration {
	return stallLimit(max(e.pipe.meter.rtt, e.conn.hearing.trip))
}

// checkDataLanes aborts data lanes that the destination does not read. It ends the attempt if
// dialling them again does not help.
func (e *engine) checkDataLanes(m *wire.Ack) {
	if m.Echo <= 0 || !e.handoff.AwaitsReady() {
		return
	}
	limit := e.stallLimit()
	stalled, idle := e.pipe.checkReading(m, limit, e.opts.ReconnectFor)
	for _, number := range stalled {
		e.pipe.abortLane(number, limit)
		if !e.pipe.warnedUnread {
			e.pipe.warnedUnread = true
			e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("the destination answers, and has read nothing of what data lane %d carries for %v: such lanes are dialled again. If a router on the way loses large packets, its MTU is smaller than that of the interfaces here and there", number, migration.RoundTime(limit))})
		}
	}
	if idle {
		e.fail(&transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("the destination answers, and has read nothing of any data lane for %v", e.opts.ReconnectFor)})
	}
}

var errDeaf = errors.New("the control lane is open, and the destination has not answered on it")

// checkControlLane closes a control lane that is open, and that the destination does not hear. In
// doubt only an answer to QUERY proves that it hears.
func (e *engine) checkControlLane() {
	doubt := e.handoff.InDoubt()
	limit := e.stallLimit()
	if !e.conn.isUnheard(limit, doubt, !doubt && !e.handoff.AwaitsReady()) {
		return
	}
	e.pipe.suspectLanes()
	reportStall(e.conn.control.Lane())
	e.loseControl(fmt.Errorf("%w: %w for %v", transport.ErrLost, errDeaf, migration.RoundTime(limit)))
}
