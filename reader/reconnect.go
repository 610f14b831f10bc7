package reader

import (
	"context"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// mayReconnect reports whether the conversation may continue on another lane after its lane ended
// with err: the end of a lane ends no attempt. In doubt every error allows that, because only the
// destination's answer ends the doubt.
func (e *engine) mayReconnect(err error) bool {
	if e.handoff.InDoubt() {
		return true
	}
	return e.handoff.NeedsPeer() && wire.IsLaneEnd(err) && !e.offer.Devices[0].Splice // bytes that were spliced into a lane are lost with it
}

// controlLost continues on another control lane, or ends the conversation. It tells a destination
// that is still reachable the cause.
func (e *engine) controlLost(ev controlLost) {
	if ev.control != e.conn.control {
		return // a new lane has replaced it
	}
	f := &transport.Fault{Code: transport.CodeOf(ev.err), Err: ev.err}
	switch {
	case e.mayReconnect(ev.err) && e.handoff.AwaitsWelcome():
		e.conn.greetAgain(ev.err)
	case e.mayReconnect(ev.err):
		e.loseControl(ev.err)
	case f.Code == transport.CodeCorrupt || f.Code == transport.CodeProtocol:
		e.fail(f)
		e.endBy(f, handoff.Unreachable{})
	default:
		e.endBy(f, handoff.Unreachable{})
	}
}

func (e *engine) greeting(ev greeting) {
	if !e.handoff.AwaitsWelcome() {
		ev.control.Lane().Close()
		return
	}
	e.useControl(ev.control)
	e.times.hello = time.Now()
	e.conn.send(e.offer)
}

// loseControl dials the control lane again.
func (e *engine) loseControl(err error) {
	e.conn.dropControl()
	clear(e.pipe.dialling)
	e.emit(migration.Event{Kind: migration.Lost, Text: err.Error()})
	e.redialControl(err)
	e.stepPlan(plan.ConnectionLost{})
}

// redialControl dials the control lane again.
func (e *engine) redialControl(cause error) {
	e.conn.redialControl(cause, e.handoff.PeerJournal, e.handoff.InDoubt())
}

// useControl takes messages from a control lane from now on.
func (e *engine) useControl(control *wire.Control) {
	e.conn.attach(control)
	e.report.Over(control.Lane())
}

// noteRefusal warns once why a destination that was reached is no answer.
func (e *engine) noteRefusal(f *transport.Fault) {
	if before := e.conn.refusal; before == nil || before.Err.Error() != f.Err.Error() {
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("in doubt: the peer that answered does not know the outcome, and is asked again: %s", f.Err)})
	}
	e.conn.refusal = f
}

// rejoined continues the conversation. The last messages may be lost, so it sends them again.
func (e *engine) rejoined(ev rejoined) {
	if !e.handoff.NeedsPeer() { // it ended meanwhile
		ev.control.Lane().Close()
		return
	}
	away := e.conn.restore(ev.control)
	e.report.Over(ev.control.Lane())
	e.emit(migration.Event{Kind: migration.Restored})
	e.handleMessage(ev.first)
	if e.handoff.AwaitsReady() {
		e.sendEstimate()
		e.sendEnds()
	}
	e.stepHandoff(handoff.Reached{})
	e.stepPlan(plan.ConnectionRestored{Away: away})
	e.dialMissing()
}

// sendEnds sends the END of every complete stream again.
func (e *engine) sendEnds() {
	for _, d := range e.devices {
		if d.endSent {
			e.sendEnd(d)
		}
	}
}

func (e *engine) sendEnd(d *device) {
	end := d.end
	end.Attempt = e.opts.Attempt
	d.endSent = true
	e.conn.send(&end)
}

// laneFailed queues the chunks of a lost data lane for the others, and dials the lane again.
func (e *engine) laneFailed(ev laneFailed) {
	if !e.handoff.AwaitsReady() {
		return
	}
	if !wire.IsLaneEnd(ev.err) || e.offer.Devices[0].Splice {
		e.fail(&transport.Fault{Code: transport.CodeOf(ev.err), Err: fmt.Errorf("data lane: %w", ev.err)})
		return
	}
	e.pipe.requeueLane(ev.number)
	e.dialMissing()
}

// dialMissing dials the lost data lanes, unless the destination is out of reach: then the control
// lane comes first. A destination that was started again accepts no data lane before RESUME.
func (e *engine) dialMissing() {
	for i, lane := range e.pipe.lanes {
		if lane != nil || e.pipe.dialling[i] || e.conn.control == nil || !e.handoff.AwaitsReady() {
			continue
		}
		e.pipe.dialling[i] = true
		peer := e.conn.peer
		redial(e.conn.linked, lanePause, func(ctx context.Context) error {
			lane, err := e.conn.openLane(ctx, wire.LaneData, i, peer)
			if err == nil {
				e.conn.postLane(laneBack{i, lane})
			}
			return err
		})
	}
}

func (e *engine) laneBack(ev laneBack) {
	if !e.handoff.AwaitsReady() || e.pipe.lanes[ev.number] != nil {
		ev.lane.Close()
		return
	}
	e.pipe.replaceLane(ev.number, ev.lane)
}

// closeLateLanes closes lanes that were dialled too late for the loop.
func (e *engine) closeLateLanes() {
	for {
		select {
		case ev := <-e.events:
			if ev, ok := ev.(laneEvent); ok {
				ev.heldLane().Close()
			}
		default:
			return
		}
	}
}
