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

// mayReturn reports whether a conversation whose lane has ended may go on over another:
// the end of a lane ends no attempt. In doubt it may whatever the lane has ended with,
// since only the destination's answer ends the doubt.
func (e *engine) mayReturn(err error) bool {
	if e.owner.InDoubt() {
		return true
	}
	return e.owner.NeedsPeer() && wire.Ended(err) && !e.offer.Devices[0].Splice // what was spliced into a lane is gone with it
}

// controlLost goes on over another control lane, or ends the conversation. A
// destination that can still be told why it ends, is.
func (e *engine) controlLost(ev controlLost) {
	if ev.control != e.conn.control {
		return // it has a successor
	}
	f := &transport.Fault{Code: transport.CodeOf(ev.err), Err: ev.err}
	switch {
	case e.mayReturn(ev.err) && e.owner.AwaitsWelcome():
		e.conn.greetAgain(ev.err)
	case e.mayReturn(ev.err):
		e.lose(ev.err)
	case f.Code == transport.CodeCorrupt || f.Code == transport.CodeProtocol:
		e.failed(f)
		e.fail(f, handoff.Unreachable{})
	default:
		e.fail(f, handoff.Unreachable{})
	}
}

func (e *engine) greeting(ev greeting) {
	if !e.owner.AwaitsWelcome() {
		ev.control.Lane().Close()
		return
	}
	e.useControl(ev.control)
	e.times.hello = time.Now()
	e.conn.send(e.offer)
}

// lose dials the control lane again.
func (e *engine) lose(err error) {
	e.conn.drop()
	clear(e.pipe.dialling)
	e.tell(migration.Event{Kind: migration.Lost, Text: err.Error()})
	e.seek(err)
	e.advance(plan.ConnectionLost{})
}

// seek looks for the destination.
func (e *engine) seek(cause error) {
	e.conn.seek(cause, e.owner.Peer, e.owner.InDoubt())
}

// useControl takes messages from a control lane from now on.
func (e *engine) useControl(control *wire.Control) {
	e.conn.use(control)
	e.out.Over(control.Lane())
}

// turnedAway tells once why a destination that is reached is no answer.
func (e *engine) turnedAway(f *transport.Fault) {
	if before := e.conn.refusal; before == nil || before.Err.Error() != f.Err.Error() {
		e.tell(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("in doubt: who answers is asked again, since it does not know: %s", f.Err)})
	}
	e.conn.refusal = f
}

// rejoined goes on with the conversation: what was said last may be lost, so it is said
// again.
func (e *engine) rejoined(ev rejoined) {
	if !e.owner.NeedsPeer() { // meanwhile
		ev.control.Lane().Close()
		return
	}
	away := e.conn.restored(ev.control)
	e.out.Over(ev.control.Lane())
	e.tell(migration.Event{Kind: migration.Restored})
	e.message(ev.first)
	if e.owner.AwaitsReady() {
		e.estimate()
		e.sayEnds()
	}
	e.own(handoff.Reached{})
	e.advance(plan.ConnectionRestored{Away: away})
	e.dialMissing()
}

// sayEnds says again what was said of streams that are whole.
func (e *engine) sayEnds() {
	for _, d := range e.devices {
		if d.endSaid {
			e.sayEnd(d)
		}
	}
}

func (e *engine) sayEnd(d *device) {
	end := d.end
	end.Attempt = e.opts.Attempt
	d.endSaid = true
	e.conn.send(&end)
}

// laneFailed has what a data lane carried sent over the others, and dials it again.
func (e *engine) laneFailed(ev laneFailed) {
	if !e.owner.AwaitsReady() {
		return
	}
	if !wire.Ended(ev.err) || e.offer.Devices[0].Splice {
		e.failed(&transport.Fault{Code: transport.CodeOf(ev.err), Err: fmt.Errorf("data lane: %w", ev.err)})
		return
	}
	e.pipe.loseLane(ev.number)
	e.dialMissing()
}

// dialMissing dials the data lanes that are lost, unless the destination is out of reach:
// then the control lane comes first, and a destination that was started again knows of no
// data lane before it has heard RESUME.
func (e *engine) dialMissing() {
	for i, lane := range e.pipe.lanes {
		if lane != nil || e.pipe.dialling[i] || e.conn.control == nil || !e.owner.AwaitsReady() {
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
	if !e.owner.AwaitsReady() || e.pipe.lanes[ev.number] != nil {
		ev.lane.Close()
		return
	}
	e.pipe.replaceLane(ev.number, ev.lane)
}

// forget closes lanes that were dialled too late for the loop to see.
func (e *engine) forget() {
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
