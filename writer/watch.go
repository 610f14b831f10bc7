package writer

import (
	"fmt"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// watchSource lets a source go that keeps others from this destination, and sends nothing: one
// that has opened no data lane, or one whose estimate says that bytes are left. One of which
// nothing is left may wait for its guest. While a device here has a chunk to write, or a lane
// is lost, the source may have to wait.
func (e *engine) watchSource() {
	if e.owner.Phase != handoff.DestReceiving || !e.lostAt.IsZero() {
		e.quiet = time.Time{}
		return
	}
	if len(e.dialled()) == 0 {
		if time.Since(e.welcomed) > transport.LanesTimeout {
			e.giveUp(fmt.Errorf("the source has opened no data lane for %v", transport.LanesTimeout))
		}
		return
	}
	var arrived uint64
	for i := range e.acks.read {
		arrived += e.acks.read[i].Load()
	}
	for _, d := range e.devices {
		arrived += d.position() // within one host nothing else tells of the bytes
	}
	if arrived != e.arrivedAll || !e.owes() || e.quiet.IsZero() {
		e.arrivedAll, e.quiet = arrived, time.Now()
	}
	limit := e.opts.StallLimit
	if slices.ContainsFunc(e.lanes, func(r *receiver) bool { return r == nil || r.gone }) {
		limit += e.opts.ReconnectLimit
	}
	if time.Since(e.quiet) > limit {
		e.giveUp(fmt.Errorf("the source says that bytes are left, and has sent none for %v", limit))
	}
}

// giveUp ends the attempt of a source that sends nothing. Where it never sent a byte, the
// next source is waited for.
func (e *engine) giveUp(why error) {
	e.letGo = true
	e.failed(&transport.Fault{Code: transport.CodeTimeout, Err: why})
}

// owes reports whether the source says that bytes are left, and no device here has any to write.
func (e *engine) owes() (owes bool) {
	stopped := !e.clock.stopped.IsZero()
	for _, d := range e.devices {
		if _, idle := d.merge.status(); !idle {
			return false
		}
		pending := d.estimate.Initial > 0 || d.estimate.Dirty > 0
		if stopped || d.merge.ended() {
			pending = d.left(stopped) > 0
		}
		owes = owes || pending
	}
	return owes && e.ends < len(e.devices)
}

// watchLoad gives up on devices that have everything of the source's and yet write
// nothing. What is missing because its lane is lost is no fault of theirs.
func (e *engine) watchLoad() {
	if e.owner.Phase != handoff.DestReceiving || e.ends < len(e.devices) {
		return
	}
	var sum uint64
	for _, d := range e.devices {
		sum += d.position()
	}
	if sum != e.applied || e.moved.IsZero() || !e.lostAt.IsZero() {
		e.applied, e.moved = sum, time.Now()
	}
	limit := e.opts.StallLimit
	if slices.ContainsFunc(e.lanes, func(r *receiver) bool { return r == nil || r.gone }) {
		limit += e.opts.ReconnectLimit
	}
	if time.Since(e.moved) > limit {
		e.failed(&transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf("%w for %v after the last END", ErrStalled, limit)})
	}
}

// watchReady tells of a copy that waits for COMMIT, and drops it if that is wanted. A
// COMMIT that has come, and waits for the witness, is waited for too.
func (e *engine) watchReady() {
	if e.owner.Phase != handoff.DestReady || e.owner.Asking {
		e.readyAt, e.alarmed = time.Time{}, false
		return
	}
	if e.readyAt.IsZero() {
		e.readyAt = time.Now()
	}
	switch waited := time.Since(e.readyAt); {
	case e.opts.ReadyLease > 0 && waited >= e.opts.ReadyLease:
		e.failed(&transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf("%w for %v, and the complete copy is dropped", ErrReadyLease, e.opts.ReadyLease)})
	case waited >= e.opts.ReadyAlarm && !e.alarmed:
		e.alarmed = true
		e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("a complete copy has waited for COMMIT for %v, and waits on", e.opts.ReadyAlarm)})
	}
}

// turnBackLimit is how long a source that is connected may take to go back: longer than its
// own limit for that.
const turnBackLimit = 35 * time.Second

// watchHeld tells of a complete copy that stays although the user has cancelled: nobody
// answers for the source's copy.
func (e *engine) watchHeld() {
	away := e.control == nil || time.Since(e.cancelledAt) > turnBackLimit
	held := !e.cancelledAt.IsZero() && e.owner.Phase == handoff.DestReady && away
	if held && !e.held {
		e.tell(report.Event{Kind: report.Held, Peer: e.out.Peer, Attempt: e.owner.Attempt})
	}
	if e.held = held; held && (e.opts.Leave == nil || e.leaving) {
		e.leave()
	}
}

// leave is the user's wish to end all the same. It does not count before the user was told
// what stays.
func (e *engine) leave() {
	if !e.held {
		return
	}
	e.fault = &transport.Fault{Code: transport.CodeCancelled, Err: ErrLeft}
	e.own(handoff.Leave{})
}
