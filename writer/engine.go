package writer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
)

// tick is how often progress is told and time-driven decisions are looked at.
const tick = 100 * time.Millisecond

// Receive serves one migration from a peer that listener accepts, into targets,
// as one set: all of them run in the end, or none, and those that do not run
// are reset. It returns when every goroutine that it started has ended; only a
// write that its driver does not let go may outlive it, with the reset that waits
// for the write, and the report says so. The listener stays open.
//
// The report's Outcome says what may be done now; the error is nil exactly for
// migration.Committed and is a *transport.Fault where the cause has a place.
// Cancelling ctx before the copy is complete resets the devices. A complete copy may be
// the last one: the source is asked to take its devices back, and the copy is reset when
// the source says that it has. While the source is away the copy stays, and is left as
// READY (ErrLeft) on the word of Options.Leave.
//
// A source that is refused, that goes before it opens a data lane, or that is let go of before
// a byte of its streams has come, does not end it: that is observed, and the next source is waited for, until ctx ends. Devices
// that were touched have been reset by then.
//
// A source whose connection is lost may reconnect for as long as Options.ReconnectFor
// allows, and to a complete copy for ever. A source that asks for an attempt which only the
// journal knows is answered from the journal, unless the targets hold its complete copy
// (vfio.Resumable): that attempt continues. An attempt ends when its source opens a newer one,
// which is then served.
func Receive(ctx context.Context, listener transport.Listener, targets []Target, opts *Options) (migration.Report, error) {
	o, err := opts.withDefaults()
	if err == nil {
		err = checkTargets(targets)
	}
	if err != nil {
		return migration.Report{Outcome: migration.Aborted}, err
	}
	told := new(refusals)
	for next, waits := (*admitted)(nil), (handoff.Entry{}); ; o.Continue = (migration.ID{}) {
		e := newEngine(o, targets)
		e.callers.refusals, e.unresolved = told, waits
		e.loop(ctx, listener, next)
		next, waits = e.callers.successor, e.unresolved
		ended := e.report.Outcome != migration.Aborted || ctx.Err() != nil
		nothing := !ended && e.endedEmpty()
		switch {
		case ended && next != nil:
			next.lane.Close()
			return e.result()
		case next == nil && !nothing:
			return e.result()
		}
		if nothing {
			e.reportRefused(e.fault)
			told.pause(ctx)
		}
		if next != nil && next.pre.Mig == e.report.Attempt.Mig {
			e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("attempt %d of this migration has ended: its source has opened a newer one", e.report.Attempt.Epoch)})
		}
	}
}

// engine starts the goroutines, carries events to the hand-off machine and
// does what it says. It decides nothing itself.
type engine struct {
	opts    Options
	handoff handoff.Dest
	journal handoff.Journal // nil before HELLO
	offer   *wire.Hello     // nil before HELLO, and after a restart
	terms   terms
	devices []*device // of the fleet, in HELLO's order once that has come

	fleet   *fleet
	callers *callers
	conn    *connection
	pipe    *pipeline
	watch   watch
	times   timing
	preparation
	ending

	events chan event
	quit   chan struct{} // closed when nobody takes events any more
	work   *tasks.Group  // transitions, preflights, and the witness: ends when the streams are abandoned

	warnedCopy  migration.Attempt // the user was told that this copy could not be resumed
	bytesBefore uint64            // of the streams, as recorded before a restart
	holdAsked   bool              // the user wants to end as soon as he was told so
}

// preparation is the way of the devices to RESUMING, and what is asked meanwhile.
type preparation struct {
	preparing   bool   // devices are on their way
	interrupted bool   // meanwhile the user cancelled, or the source was lost
	probe       probed // what the witness said
	stopProbe   func()
}

// ending is what an attempt comes to.
type ending struct {
	report      migration.Report
	fault       *transport.Fault // the first cause
	lateFault   *transport.Fault // the first that came while the devices were started
	unrecorded  *transport.Fault // why the journal has not taken a record
	sourceEnded bool             // the source alone has ended the attempt: it was refused, or has sent nothing
	stuck       bool             // a driver has not let go of a write
	done        bool
	unresolved  handoff.Entry // what was accepted before the host was restarted, and waits for its source
}

func newEngine(o Options, targets []Target) *engine {
	e := &engine{opts: o, fleet: newFleet(targets), events: make(chan event, 16), quit: make(chan struct{})}
	e.devices = e.fleet.devices
	e.watch.limits = watchLimits{o.ReconnectFor, o.StalledAfter, o.WarnReadyAfter, o.DiscardReadyAfter}
	e.fleet.warn = func(err error) { e.post(warned{err}) }
	e.work = tasks.NewGroup(context.Background())
	e.callers = newCallers(e.post, e.events, e.quit)
	e.conn = &connection{post: e.post}
	e.pipe = newPipeline(e.work, e.post)
	return e
}

// loop takes events until the hand-off says that it is over, then stops and
// joins everything. first is a source that has come before, if there is one.
func (e *engine) loop(ctx context.Context, listener transport.Listener, first *admitted) {
	e.callers.listen(listener)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	cancelled, leave := ctx.Done(), e.opts.HoldCopy
	e.continueMigration()
	if first != nil {
		e.admitted(*first)
	}
	for !e.done {
		select {
		case ev := <-e.events:
			e.handle(ev)
		case <-ticker.C:
			e.onTick()
		case <-cancelled:
			cancelled = nil
			e.cancel(context.Cause(ctx))
		case _, ok := <-leave:
			if !ok { // closed: the wish lasts
				leave, e.holdAsked = nil, true
			}
			e.holdCopy()
		}
	}
	close(e.quit)
	e.callers.talking.Stop()
	e.callers.accepting.Stop()
	e.callers.accepting.Wait()
	e.join()
	e.closeLateLanes()
	e.saveStepTimes()
}

// join ends what the loop started. It is in the order of the data's way, so
// that nobody hands a chunk to somebody who has gone. The data lanes are closed
// after the control lane: a source that lost them first would not know why.
func (e *engine) join() {
	e.stuck = e.stuck || !e.stopStreams()
	e.pipe.acking.Wait() // CloseWrite must not come beside a Write
	e.conn.close()
	e.pipe.closeLanes()
	e.callers.close()
	e.work.Wait()
	if !e.stuck {
		e.freeMemory()
	}
	e.closeJournal()
}

// free gives back what chunks and their writers used.
func (e *engine) freeMemory() {
	e.fleet.closeStreams()
	e.pipe.close()
}

// abandon ends and joins everything that carries chunks. It reports whether all has ended
// within joinLimit.
func (e *engine) stopStreams() bool {
	e.work.Stop()
	return e.pipe.join(e.freeMemory)
}

// post hands an event to the loop, or drops it when the loop has ended.
func (e *engine) post(ev event) {
	select {
	case e.events <- ev:
	case <-e.quit:
	}
}

// handle sends an event where it belongs.
func (e *engine) handle(ev event) {
	switch ev := ev.(type) {
	case admitted:
		e.admitted(ev)
	case heard:
		if ev.control == e.conn.control {
			e.conn.heardAt = time.Now()
			e.handleMessage(ev.message)
		}
	case acceptFailed:
		e.acceptFailed(ev.err)
	case controlLost:
		e.controlLost(ev)
	case laneEnded:
		e.laneEnded(ev)
	case loaderEnded:
		e.loaderEnded(ev)
	case prepared:
		e.prepared(ev)
	case started:
		e.started(ev)
	case guestStarted:
		e.guestStarted(ev)
	case wasReset:
		e.stuck = e.stuck || ev.stuck
		e.wasReset(ev.err)
	case witnessed:
		e.witnessed(ev)
	case answered:
		e.answered(ev.peer)
	case warned:
		e.report.Warnings = append(e.report.Warnings, ev.err.Error())
	case preflightHeard:
		e.emit(ev.event)
	case alarmed:
		e.raiseAlarm(ev.event)
	}
}

// onTick emits progress, and looks at what takes too long. How full the stages are is known only
// while state moves through them.
func (e *engine) onTick() {
	if e.pipe.started() {
		ev := migration.Event{Kind: migration.Progress, Devices: e.snapshots()}
		if migration.Moves(e.phase()) {
			ev.Occupancy = e.pipe.recent.Look(e.pipe.currentProgress(), e.pipe.credit.chunks)
		}
		e.emit(ev)
	}
	e.stepWatch()
}

func (e *engine) admitted(ev admitted) {
	switch {
	case ev.pre.Kind == wire.LaneData:
		e.addDataLane(ev)
	case ev.pre.Kind == wire.LaneProbe:
		e.addProbeLane(ev)
	case ev.pre.Kind == wire.LanePreflight && e.engaged():
		e.refuseCaller(ev, e.occupiedFault())
	case ev.pre.Kind == wire.LanePreflight:
		e.startPreflight(ev)
	default:
		e.handleFirst(ev)
	}
}

// useControl takes messages from a control lane from now on.
func (e *engine) useControl(control *wire.Control) {
	e.conn.use(control)
	e.report.Over(control.Lane())
}

// turnAway tells a source why it is not served.
func (e *engine) refuseCaller(ev admitted, why *transport.Fault) {
	if e.callers.refuse(ev, why) {
		e.reportTurnedAway(ev.lane, why.Err.Error())
	}
}

// preflight answers one preflight at a time. It ends by itself, or with work.
func (e *engine) startPreflight(ev admitted) {
	if !e.callers.preflight.isOver() {
		e.refuseCaller(ev, &transport.Fault{Code: transport.CodeLimit, Err: errors.New("this destination already answers a preflight")})
		return
	}
	p := newPreflight(e, ev)
	e.callers.preflight = p
	p.tasks.Go(p.run)
}

// probeLane has a lane of the preflight read, until one of them ends.
func (e *engine) addProbeLane(ev admitted) {
	p := e.callers.preflight
	if p == nil || !p.admits(ev) {
		ev.lane.Close()
		return
	}
	p.tasks.Go(func(ctx context.Context) { p.readProbe(ctx, ev.lane) })
}

// dataLane starts a receiver, if the lane is of this migration and peer.
func (e *engine) addDataLane(ev admitted) {
	a := migration.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}
	i, ours := int(ev.pre.Index), e.engaged() && a == e.handoff.Attempt && transport.IsPeer(ev.lane, e.report.Peer)
	if !ours || i >= len(e.pipe.lanes) || e.conn.local && e.pipe.lanes[i] != nil {
		ev.lane.Close()
		return
	}
	if !e.handoff.Receives() {
		e.pipe.holdLateLane(ev.lane)
		return
	}
	var codecs [256]bool
	for _, id := range agreedCodecs(e.offer.Codecs) {
		codecs[id] = true
	}
	e.pipe.addLane(i, ev.lane, codecs, e.conn.local)
}

// answer serves a source from its journal alone.
func (e *engine) answerFromJournal(ev admitted, m *wire.Resume) {
	e.callers.answer(ev, func(ctx context.Context) {
		answerResume(ctx, ev, m, e.opts.Journals, e.postAlarm, func() {
			if err := e.fleet.removeSessions(m.Mig); err != nil {
				e.post(warned{fmt.Errorf("remove what is left of migration %v: %w", m.Mig, err)})
			}
		})
	})
}

// prepare opens the devices' sessions, and asks the witness meanwhile. It ends when the
// drivers are done, and the witness has answered or endProbe was called.
func (e *engine) prepareDevices() {
	e.preparing = true
	mig, offered, terms := e.offer.Mig, e.offer.Devices, e.terms
	group := e.work.Child()
	e.stopProbe = group.Stop
	group.Go(func(ctx context.Context) {
		defer group.Stop()
		var probe probed
		var probing sync.WaitGroup
		probing.Go(func() {
			probe = e.opts.probeWitness(ctx)
			probe.doubts = terms.listDoubts(offered, e.opts.MaxState)
		})
		began := time.Now()
		err := e.fleet.removeSessions(mig) // of an attempt before this one
		if err == nil {
			err = e.fleet.prepare()
		}
		took := time.Since(began)
		if err != nil {
			group.Stop()
		}
		probing.Wait()
		e.post(prepared{took, err, probe})
	})
}

// begin sets memory aside and starts the loaders.
func (e *engine) startStreams() error {
	journal := e.journal.ID()
	return e.pipe.start(e.devices, streamTerms{
		attempt: e.offer.Attempt, journal: journal, memory: e.opts.Memory, chunkSize: e.terms.chunkSize, lanes: e.terms.lanes,
		maxState: e.opts.MaxState, control: e.conn.control, quit: e.quit,
		notes: func(device int) *copyNote {
			if !e.fleet.persistent() {
				return nil
			}
			return newCopyNote(e.offer, device, journal)
		},
	})
}

// askWitness asks for the attempt's register, and takes its time to say that there
// was no answer. It ends by itself, or with work.
func (e *engine) askWitness() {
	a, mark := e.handoff.Attempt, e.handoff.Witness
	if e.times.steps.askedAt.IsZero() {
		e.times.steps.askedAt = time.Now()
	}
	e.work.Go(func(ctx context.Context) {
		winner, err := witness.Ask(ctx, e.opts.Witness, mark, a, handoff.DestSide)
		if err != nil {
			select {
			case <-time.After(witnessPause):
			case <-ctx.Done():
			}
		}
		e.post(witnessed{winner, err})
	})
}

// start runs the devices; it ends when the drivers are done.
func (e *engine) startDevices() {
	a := e.handoff.Attempt
	e.work.Go(func(context.Context) {
		began := time.Now()
		failed, warning := e.runOnAccept(a)
		if failed != nil {
			e.post(started{err: failed, copy: handoff.Kept})
			return
		}
		ev := started{}
		if warning != nil {
			e.post(warned{warning})
		} else if e.opts.OnAccept != nil {
			ev.accept = time.Since(began)
		}
		began = time.Now()
		err := e.fleet.start()
		ev.took, ev.err = time.Since(began), err
		if err != nil {
			ev.copy = e.fleet.undoStart()
		}
		e.post(ev)
	})
}

// startGuest ends by itself.
func (e *engine) startGuest(devices time.Duration) {
	e.work.Go(func(context.Context) {
		began := time.Now()
		err := e.opts.StartGuest(context.Background())
		e.post(guestStarted{devices, time.Since(began), err})
	})
}

// reset drops what the devices hold. It goes on beside the join of the loaders,
// since it is what wakes one that waits in its device, while a device that must
// not be reset under a write waits for that (vfio.Device.Reset). A driver that
// has let go of every write may take its time.
func (e *engine) resetDevices() {
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Rollback})
	e.times.resetting = time.Now()
	e.work.Go(func(context.Context) {
		e.work.Stop()
		done := make(chan error, 1)
		go func() { done <- e.fleet.reset() }() // of a stuck driver, ends with the write
		if !e.stopStreams() {
			e.post(wasReset{errors.Join(resultSoFar(done), fmt.Errorf("a driver has not let go of a write for %v", joinLimit)), true})
			return
		}
		err := errors.Join(<-done, e.fleet.resetAgain())
		e.fleet.closeStreams()
		e.post(wasReset{err, false})
	})
}

// sofar is what a call that may be under way has said already.
func resultSoFar(done <-chan error) error {
	select {
	case err := <-done:
		return err
	default:
		return nil
	}
}

// forget closes lanes that were admitted too late for the loop to see.
func (e *engine) closeLateLanes() {
	for {
		select {
		case ev := <-e.events:
			if a, ok := ev.(admitted); ok {
				a.lane.Close()
			}
		default:
			return
		}
	}
}
