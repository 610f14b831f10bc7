package reader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// tick is how often the engine emits progress and checks its time limits.
const tick = 100 * time.Millisecond

// Send migrates the sources as one set to the peer that dialer reaches: in the end the destination
// runs all of them, or none. Send returns when every goroutine that it started has ended. The only
// exception is a read that its driver does not finish, of a device that could not be stopped: it
// may outlive Send with the memory of its chunks, and the report says so.
//
// Send asks the journal first:
//
//   - A migration that was committed before: that is the outcome, and Send changes nothing.
//   - A migration in doubt: Send asks the destination only. The answer is the outcome.
//   - An attempt that an earlier process left unfinished: Send recovers its devices first.
//
// Send dials a lost connection again, and the attempt continues. Options limit for how long. In
// doubt Send dials until the destination has answered.
//
// The report's Outcome says what the caller may do now. The error is nil exactly for
// migration.Committed. It is a *transport.Fault where the cause has a place. A cancel of ctx before
// COMMIT returns the devices to RUNNING. After COMMIT it asks the destination to give the devices
// back.
func Send(ctx context.Context, dialer transport.Dialer, sources []Source, opts *Options) (migration.Report, error) {
	o, err := opts.withDefaults()
	if err == nil {
		err = checkSources(sources)
	}
	if err != nil {
		return migration.Report{Outcome: migration.Aborted}, err
	}
	last := o.Journal.Last()
	if last.Record == handoff.Commit {
		return askInDoubt(ctx, dialer, sources, o)
	}
	if decided, err := checkJournal(o); decided.Outcome != migration.Pending {
		if decided.Outcome == migration.Committed {
			decided.Warnings = append(decided.Warnings, releaseSessions(sources)...)
		}
		return decided, err
	}
	if err := guardOnlyCopy(ctx, dialer, sources, o); err != nil {
		return migration.Report{Outcome: guardOutcome(err), Attempt: last.Attempt}, err
	}
	if before, err := recoverDevices(o, sources); err != nil {
		return before, err
	}
	if err := cmp.Or(checkP2P(sources, o), checkRunning(sources)); err != nil {
		return migration.Report{Outcome: migration.Aborted}, err
	}
	if err := probeWitness(ctx, &o); err != nil {
		return migration.Report{Outcome: migration.Aborted, Attempt: o.Attempt}, err
	}
	e := newEngine(o, dialer, sources)
	if err := e.connect(ctx); err != nil {
		e.work.Stop()
		e.conn.dialling.Stop()
		e.pipe.close()
		return e.reportUnreachable(ctx, err)
	}
	e.useControl(e.conn.control)
	e.loop(ctx, func() { e.stepHandoff(handoff.Begin{}) })
	e.join()
	return e.result()
}

// askInDoubt asks the destination about a migration in doubt, and carries out its answer.
func askInDoubt(ctx context.Context, dialer transport.Dialer, sources []Source, o Options) (migration.Report, error) {
	o.Attempt = o.Journal.Last().Attempt
	if err := nameCopy(ctx, dialer, o); err != nil {
		return migration.Report{Outcome: migration.InDoubt, Attempt: o.Attempt}, err
	}
	e := newEngine(o, dialer, sources)
	if err := e.pipe.allocate(o.Memory, o.ChunkSize, 1, e.needs()); err != nil {
		e.work.Stop()
		return migration.Report{Outcome: migration.InDoubt, Attempt: o.Attempt}, err
	}
	e.loop(ctx, e.continueInDoubt)
	e.join()
	return e.result()
}

// engine starts the goroutines, carries events to the machines (plan, watch and hand-off) and
// carries out their actions. It decides nothing itself.
type engine struct {
	opts    Options
	devices []*device
	offer   *wire.Hello

	plan        *plan.Plan
	handoff     handoff.Source
	watch       watch
	fleet       *fleet
	conn        *connection
	pipe        *pipeline
	times       timing
	predecessor predecessor
	hooks       hooks
	ending

	events chan event
	quit   chan struct{} // closed when the loop takes no more events

	work   *tasks.Group // transitions, and the witness: ends when the streams are stopped
	asking *tasks.Group // of work: PauseGuest, ResumeGuest and Approve. Each ends by itself, or with work
	// returning is the way back. Its steps end when the drivers have finished, and the guest's
	// owner has answered or resumeLimit has passed.
	returning sync.WaitGroup

	unconfirmed       int  // devices that have not answered ConfirmEstimates yet
	approvedWhileLost bool // the owner approved while the destination was out of reach
	guestUp           bool // the guest runs again after a switchover that was called off
}

// ending is the outcome of an attempt, with its causes.
type ending struct {
	report      migration.Report
	fault       *transport.Fault // the first cause
	unrecorded  *transport.Fault // why the journal did not take a record
	done        bool
	mustRelease bool // the devices run at the destination: release them
	stuck       bool // a driver has not returned from a read
}

// predecessor is what an earlier process left of an attempt in doubt.
type predecessor struct {
	inDoubt      bool   // it recorded COMMIT, and sent everything that is acknowledged
	bytes        uint64 // of all streams, as recorded
	devicesReset bool   // the devices no longer hold the state that they had at COMMIT
}

// hooks are the results of the hooks that ran.
type hooks struct {
	running             sync.WaitGroup // on-commit, which ends by itself
	committed, reverted error
}

func newEngine(o Options, dialer transport.Dialer, sources []Source) *engine {
	n := len(sources)
	devices, offer := newDevices(sources), hello(o, sources)
	features, sizes := make([]vfio.Features, n), make([]uint64, n)
	for i, s := range sources {
		features[i], sizes[i] = s.Device.Features(), offer.Devices[i].Estimate
	}
	e := &engine{
		opts: o, devices: devices,
		offer:   offer,
		plan:    plan.New(plan.Limits{Downtime: o.DowntimeTarget, OnLimit: o.OnLimit, MaxPrecopy: o.MaxPrecopy, MaxRounds: o.MaxRounds, Timeout: o.AbortAfter}, features, sizes),
		handoff: handoff.NewSource(o.Attempt, o.Journal.ID()),
		fleet:   newFleet(devices),
		events:  make(chan event, 16), quit: make(chan struct{}),
	}
	e.handoff.Witness, e.handoff.External = handoff.RegisterOf(e.offer.Witness), o.Approve != nil
	e.times.ownerDecides = e.handoff.External
	e.watch.limits = watchLimits{o.welcomeLimit(), o.ReconnectFor, o.DowntimeTarget, o.ResumeAfter, o.StalledAfter, o.AskBackAfter}
	e.work = tasks.NewGroup(context.Background())
	e.asking = e.work.Part()
	e.times.start = time.Now()
	e.conn = newConnection(o, dialer, e.times.start, e.post, e.events, e.quit)
	e.pipe = newPipeline(o, devices, e.times.start, e.work, e.post)
	e.report = migration.Report{Attempt: o.Attempt}
	return e
}

// loop handles events until the hand-off ends. It calls begin first.
func (e *engine) loop(ctx context.Context, begin func()) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	welcome := time.NewTimer(e.opts.welcomeLimit())
	defer welcome.Stop()
	e.times.began = time.Now()
	begin()
	cancelled := ctx.Done()
	for !e.done {
		select {
		case ev := <-e.events:
			e.handle(ev)
		case ev := <-e.conn.heard:
			e.handleHeard(ev)
		case <-ticker.C:
			e.onTick()
		case <-e.times.atLimit:
			e.stepWatch()
		case <-welcome.C:
			e.stepWatch()
		case <-cancelled:
			cancelled, e.times.cancelled = nil, time.Now()
			e.endBy(&transport.Fault{Code: transport.CodeCancelled, Err: context.Cause(ctx)}, handoff.Interrupt{})
		}
	}
}

// joinLimit bounds the wait for a driver that does not return from a read although its device
// leaves the saving states.
const joinLimit = 5 * time.Second

// join ends what the loop started. It closes the data lanes after the control lane: a destination
// that lost the data lanes before it received ABORT would not know the cause.
func (e *engine) join() {
	close(e.quit)
	e.conn.dialling.Stop()
	e.stopStreams()
	e.stuck = !e.pipe.join(joinLimit, e.returning.Wait, e.asking.Wait, func() {
		e.fleet.closeStreams()
		e.pipe.close()
	})
	e.conn.close()
	e.work.Wait()
	e.hooks.running.Wait()
	e.reportHooks()
	e.saveStepTimes()
	closeLanes(e.pipe.dialled)
	e.closeLateLanes()
	if e.mustRelease && !e.handoff.Empty { // devices that were reset after COMMIT may belong to another owner now
		e.releaseDevices()
	}
	if e.stuck {
		what := "not returned from a read"
		if e.watch.backTooLong {
			what = "not returned a device to RUNNING"
		}
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("a driver has %s for %v; only a reset of the device, or the end of this process, ends it", what, joinLimit))
		return
	}
	e.fleet.closeStreams()
	e.pipe.close()
}

// stopStreams wakes everything that waits for a stream or a lane.
func (e *engine) stopStreams() {
	e.work.Stop()
	e.conn.stopLinked()
	e.pipe.stop()
}

// beginWayBack begins the way back, once.
func (e *engine) beginWayBack() {
	if !e.times.back.IsZero() {
		return
	}
	if e.plan.Phase() != plan.Connecting {
		e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Rollback})
	}
	e.stopStreams()
	e.times.back = time.Now()
}

// haltDevices takes the first step of the way back after the last END. Its goroutine ends when the
// drivers have finished.
func (e *engine) haltDevices() {
	e.beginWayBack()
	e.returning.Go(func() {
		again, err := e.fleet.halt()
		e.post(halted{again, err})
	})
}

// resumeDevices returns the devices to RUNNING. A device that leaves the saving states also wakes a
// drain that is blocked in a read. The goroutine ends when the drivers have finished, and the
// guest's owner has answered or resumeLimit has passed.
func (e *engine) resumeDevices(reverted bool) {
	e.beginWayBack()
	paused := !e.times.paused.IsZero() || e.predecessor.inDoubt // by an earlier process
	sole, reset := e.handoff.Sole, e.predecessor.devicesReset
	e.returning.Go(func() {
		if reverted {
			e.hooks.running.Wait() // on-commit must not overtake on-revert
			e.hooks.reverted = e.opts.OnRevert.Run(e.opts.Attempt)
		}
		ev := resumed{}
		ev.again, ev.err = e.fleet.resume(sole)
		ev.how = e.fleet.classifyReturn(ev.err)
		if reset {
			ev.how, ev.err = handoff.SomeRan, errors.Join(ev.err, errors.New("the devices were reset after COMMIT, and lost the state that they held"))
		}
		e.asking.Wait() // a pause that ended after ResumeGuest would last, and a VM must not be moved and resumed at once
		if ev.err == nil && paused && !e.guestUp && e.opts.ResumeGuest != nil {
			if ev.guest = askResume(context.Background(), e.asking, e.opts.ResumeGuest); ev.guest != nil {
				ev.how = handoff.Unheard
			}
		}
		ev.at = time.Now()
		e.post(ev)
	})
}

// resumeLimit is how long ResumeGuest may take.
const resumeLimit = 10 * time.Second

// askResume calls resume in a goroutine of the group, and waits for its answer for at most
// resumeLimit.
func askResume(ctx context.Context, group *tasks.Group, resume func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resumeLimit, fmt.Errorf("no answer for %v", resumeLimit))
	defer cancel()
	answer := make(chan error, 1)
	group.Go(func(context.Context) { answer <- resume(ctx) }) // ends with ctx, if the guest's owner heeds ctx
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	select { // the answer may have come at the same time
	case err := <-answer:
		if err == nil {
			return nil
		}
	case <-time.After(joinLimit):
	}
	return context.Cause(ctx)
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
	case controlLost:
		e.controlLost(ev)
	case rejoined:
		e.rejoined(ev)
	case greeting:
		e.greeting(ev)
	case refused:
		e.noteRefusal(ev.why)
	case laneFailed:
		e.laneFailed(ev)
	case laneBack:
		e.laneBack(ev)
	case lanesOpen:
		e.lanesOpened(ev)
	case entered:
		e.entered(ev)
	case guestPaused:
		e.guestPaused(ev.err)
	case guestResumed:
		e.guestResumed(ev.err)
	case approved:
		e.approved(ev.err)
	case polled:
		e.devices[ev.Device].polls.last = time.Now()
		e.stepPlan(ev.PrecopyPolled)
	case sized:
		e.stepPlan(ev.SizePolled)
	case asked:
		e.asked(ev)
	case drainEnded:
		e.devices[ev.device].end = ev.end
		e.stepPlan(plan.StreamEnded{Device: ev.device})
	case drainFailed:
		f := e.fleet.faultOf(&deviceError{ev.device, ev.err})
		f.Offset = ev.offset
		e.fail(f)
	case halted:
		e.halted(ev)
	case resumed:
		e.resumed(ev)
	case witnessed:
		e.witnessed(ev)
	}
}

// handleHeard takes a message of the present control lane. It discards messages of an earlier one.
func (e *engine) handleHeard(ev heard) {
	if ev.control == e.conn.control {
		e.handleMessage(ev.message)
	}
}

// onTick emits progress, and steps everything that depends on the time.
func (e *engine) onTick() {
	e.measure()
	e.checkWarmup()
	e.pipe.noteSent(time.Now())
	e.pollBusy()
	e.stepPlan(plan.TimePassed{})
	e.checkControlLane()
	e.stepWatch()
	e.pipe.queue.divide(e.needs())
	if e.handoff.AwaitsReady() {
		e.sendEstimate()
	}
	ev := migration.Event{Kind: migration.Progress, Devices: e.snapshots(), Way: e.pathFigures(), Waiting: e.plan.Waiting(time.Since(e.times.start))}
	if migration.Moves(e.phase()) { // otherwise the stages are empty
		ev.Occupancy = e.pipe.recent.Occupancy(e.pipe.currentProgress(), e.pipe.queue.chunks)
	}
	e.emit(ev)
}

// dialLanes opens the data lanes.
func (e *engine) dialLanes(n int) {
	peer := e.conn.peer
	e.pipe.dialLanes(n, e.opts.ConnectFor, func(ctx context.Context, number int) (transport.Lane, error) {
		return e.conn.openLane(ctx, wire.LaneData, number, peer)
	})
}

func (e *engine) lanesOpened(ev lanesOpen) {
	if ev.err != nil {
		e.fail(&transport.Fault{Code: transport.CodeOf(ev.err), Err: fmt.Errorf("open data lanes: %w", ev.err)})
	}
	if !e.handoff.AwaitsReady() {
		return
	}
	e.pipe.startLanes()
	e.measure() // the round trip is known
	e.stepPlan(plan.LanesOpened{})
}

// enterStates starts a transition. Its goroutine ends by itself, when the drivers have finished.
func (e *engine) enterStates(moves []plan.Move) {
	e.work.Go(func(context.Context) {
		began := time.Now()
		err := e.fleet.enter(moves)
		e.post(entered{time.Since(began), err})
	})
}

// resumeGuest asks the owner to resume the guest. Its goroutine ends by itself, or with work, and
// at the latest after resumeLimit.
func (e *engine) resumeGuest() {
	e.asking.Go(func(ctx context.Context) {
		e.post(guestResumed{askResume(ctx, e.asking, func(ctx context.Context) error {
			err := e.opts.ResumeGuest(ctx)
			e.guestUp = err == nil
			return err
		})})
	})
}

// pauseGuest asks the owner to pause the guest. Its goroutine ends by itself, or with work.
func (e *engine) pauseGuest() {
	e.asking.Go(func(ctx context.Context) { e.post(guestPaused{e.opts.PauseGuest(ctx)}) })
}

// approve asks the owner for the approval of the switchover. Its goroutine ends by itself, or with
// work.
func (e *engine) approve() {
	e.asking.Go(func(ctx context.Context) { e.post(approved{e.opts.Approve(ctx)}) })
}

// askWitness asks for the attempt's register. Its goroutine ends by itself, or with work.
func (e *engine) askWitness() {
	mark := e.handoff.Witness
	e.work.Go(func(ctx context.Context) {
		winner, err := witness.Ask(ctx, e.opts.Witness, mark, e.opts.Attempt, handoff.SourceSide)
		e.post(witnessed{winner, err})
	})
}

// onCommit runs the hook. Its goroutine ends by itself.
func (e *engine) onCommit() {
	e.hooks.running.Go(func() { e.hooks.committed = e.opts.OnCommit.Run(e.opts.Attempt) })
}
