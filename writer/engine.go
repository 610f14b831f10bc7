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

// tick is how often the engine emits progress and checks its time limits.
const tick = 100 * time.Millisecond

// Receive serves one migration, from a peer that listener accepts, into targets as one set: in the
// end all of them run, or none. It resets those that do not run. Receive returns when every
// goroutine that it started has ended. The only exception is a write that its driver does not
// finish, with the reset that waits for it: the report says so. The listener stays open.
//
// The report's Outcome says what the caller may do now. The error is nil exactly for
// migration.Committed. It is a *transport.Fault where the cause has a place.
//
// A cancel of ctx before the copy is complete resets the devices. A complete copy may be the last
// one. Receive asks the source to return its devices to RUNNING, and resets the copy when the
// source confirms that. While the source is out of reach the copy stays: Options.HoldCopy then ends
// Receive with the copy as READY (ErrCopyHeld).
//
// Receive reports three kinds of sources and then waits for the next one, until ctx ends: a source
// that it refuses, one that goes before it opens a data lane, and one whose attempt it ends before
// a byte of the streams has come. It first resets the devices that it touched.
//
// A source that loses its connection may reconnect within Options.ReconnectFor. To a complete copy
// it may reconnect for ever. A source that asks about an attempt which only the journal knows is
// answered from the journal, unless the targets hold its complete copy (vfio.Resumable): then that
// attempt continues. An attempt ends when its source opens a newer one, which Receive then serves.
func Receive(ctx context.Context, listener transport.Listener, targets []Target, opts *Options) (migration.Report, error) {
	o, err := opts.withDefaults()
	if err == nil {
		err = checkTargets(targets)
	}
	if err != nil {
		return migration.Report{Outcome: migration.Aborted}, err
	}
	shared := new(refusals)
	for next, waits := (*admitted)(nil), (handoff.Entry{}); ; o.Continue = (migration.ID{}) {
		e := newEngine(o, targets)
		e.callers.refusals, e.unresolved = shared, waits
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
			shared.pause(ctx)
		}
		if next != nil && next.pre.Mig == e.report.Attempt.Mig {
			e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("attempt %d of this migration has ended: its source has opened a newer one", e.report.Attempt.Epoch)})
		}
	}
}

// engine starts the goroutines, carries events to the machines (watch and hand-off) and carries out
// their actions. It decides nothing itself.
type engine struct {
	opts    Options
	handoff handoff.Dest
	journal handoff.Journal // nil before HELLO
	offer   *wire.Hello     // nil before HELLO, and after a restart
	terms   terms
	devices []*device // the fleet's, in HELLO's order once that has come

	fleet   *fleet
	callers *callers
	conn    *connection
	pipe    *pipeline
	watch   watch
	times   timing
	preparation
	ending

	events chan event
	quit   chan struct{} // closed when the loop takes no more events
	work   *tasks.Group  // transitions, preflights, and the witness: ends when the streams are stopped

	warnedCopy  migration.Attempt // the user was warned that this copy could not be resumed
	bytesBefore uint64            // of the streams, as recorded before a restart
	holdAsked   bool              // the user wants to end once the copy is reported as held
}

// preparation is the transition of the devices to RESUMING, and the probe of the witness meanwhile.
type preparation struct {
	preparing   bool   // devices are on their way to RESUMING
	interrupted bool   // the user cancelled meanwhile, or the source was lost
	probe       probed // the witness's answer
	stopProbe   func()
}

// ending is the outcome of an attempt, with its causes.
type ending struct {
	report      migration.Report
	fault       *transport.Fault // the first cause
	lateFault   *transport.Fault // the first fault during the start of the devices
	unrecorded  *transport.Fault // why the journal did not take a record
	sourceEnded bool             // only the source ended the attempt: it was refused, or sent nothing
	stuck       bool             // a driver has not returned from a write
	done        bool
	unresolved  handoff.Entry // accepted before the host was restarted, and waits for its source
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

// loop handles events until the hand-off ends, then stops and joins everything. first is a source
// that came earlier, if any.
func (e *engine) loop(ctx context.Context, listener transport.Listener, first *admitted) {
	e.callers.listen(listener)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	cancelled, hold := ctx.Done(), e.opts.HoldCopy
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
		case _, ok := <-hold:
			if !ok { // a closed channel asks from now on
				hold, e.holdAsked = nil, true
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

// join ends what the loop started, in the order of the data path: a stage ends before the stage
// that it gives chunks to. It closes the data lanes after the control lane: a source that lost them
// first would not know the cause.
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

// freeMemory closes the streams and frees the memory of the chunks.
func (e *engine) freeMemory() {
	e.fleet.closeStreams()
	e.pipe.close()
}

// stopStreams ends and joins everything that carries chunks. It reports whether all of it ended
// within joinLimit.
func (e *engine) stopStreams() bool {
	e.work.Stop()
	return e.pipe.join(e.freeMemory)
}

// post hands an event to the loop, or discards it when the loop has ended.
func (e *engine) post(ev event) {
	select {
	case e.events <- ev:
	case <-e.quit:
	}
}

// handle sends an event to the method that handles it.
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

// onTick emits progress, and steps the watch. The occupancy of the stages is known only while state
// moves through them.
func (e *engine) onTick() {
	if e.pipe.started() {
		ev := migration.Event{Kind: migration.Progress, Devices: e.snapshots()}
		if migration.Moves(e.phase()) {
			ev.Occupancy = e.pipe.recent.Occupancy(e.pipe.currentProgress(), e.pipe.credit.chunks)
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

// refuseCaller sends a source the reason why it is not served.
func (e *engine) refuseCaller(ev admitted, why *transport.Fault) {
	if e.callers.refuse(ev, why) {
		e.reportTurnedAway(ev.lane, why.Err.Error())
	}
}

// startPreflight answers one preflight at a time. Its goroutine ends by itself, or with work.
func (e *engine) startPreflight(ev admitted) {
	if !e.callers.preflight.isOver() {
		e.refuseCaller(ev, &transport.Fault{Code: transport.CodeLimit, Err: errors.New("this destination already answers a preflight")})
		return
	}
	p := newPreflight(e, ev)
	e.callers.preflight = p
	p.tasks.Go(p.run)
}

// addProbeLane reads a lane of the preflight, until the lane or the preflight ends.
func (e *engine) addProbeLane(ev admitted) {
	p := e.callers.preflight
	if p == nil || !p.admits(ev) {
		ev.lane.Close()
		return
	}
	p.tasks.Go(func(ctx context.Context) { p.readProbe(ctx, ev.lane) })
}

// addDataLane starts a receiver, if the lane is of this migration and peer.
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

// answerFromJournal serves a source from its journal alone.
func (e *engine) answerFromJournal(ev admitted, m *wire.Resume) {
	e.callers.answer(ev, func(ctx context.Context) {
		answerResume(ctx, ev, m, e.opts.Journals, e.postAlarm, func() {
			if err := e.fleet.removeSessions(m.Mig); err != nil {
				e.post(warned{fmt.Errorf("remove the remains of migration %v: %w", m.Mig, err)})
			}
		})
	})
}

// prepareDevices opens the devices' sessions, and probes the witness meanwhile. Its goroutine ends
// when the drivers have finished, and the witness has answered or stopProbe was called.
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

// startStreams allocates memory and starts the loaders.
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

// askWitness asks for the attempt's register. A failure is reported after witnessPause. Its
// goroutine ends by itself, or with work.
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

// startDevices runs the devices. Its goroutine ends when the drivers have finished.
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

// startGuest starts the guest. Its goroutine ends by itself.
func (e *engine) startGuest(devices time.Duration) {
	e.work.Go(func(context.Context) {
		began := time.Now()
		err := e.opts.StartGuest(context.Background())
		e.post(guestStarted{devices, time.Since(began), err})
	})
}

// resetDevices resets the devices while the loaders are joined: a reset wakes a loader that waits
// in its device. A device that must not be reset under a write waits for that write
// (vfio.Device.Reset). A driver that has returned from every write may take its time.
func (e *engine) resetDevices() {
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Rollback})
	e.times.resetting = time.Now()
	e.work.Go(func(context.Context) {
		e.work.Stop()
		done := make(chan error, 1)
		go func() { done <- e.fleet.reset() }() // with a stuck driver it ends with the write
		if !e.stopStreams() {
			e.post(wasReset{errors.Join(resultSoFar(done), fmt.Errorf("a driver has not returned from a write for %v", joinLimit)), true})
			return
		}
		err := errors.Join(<-done, e.fleet.resetAgain())
		e.fleet.closeStreams()
		e.post(wasReset{err, false})
	})
}

// resultSoFar is the result of a call that may still run.
func resultSoFar(done <-chan error) error {
	select {
	case err := <-done:
		return err
	default:
		return nil
	}
}

// closeLateLanes closes lanes that were admitted too late for the loop.
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
