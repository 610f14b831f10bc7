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

// tick is how often progress is told and time-driven decisions are looked at.
const tick = 100 * time.Millisecond

// Send migrates the sources to the peer that dialer reaches, as one set: all
// of them run there in the end, or none. It returns when every goroutine that
// it started has ended; only a read that its driver does not let go, of a device
// that could not be taken back, may outlive it, with the memory of its chunks, and
// the report says so.
//
// The journal is asked first. Of a migration that was committed before, that is the
// outcome, and nothing is touched. Of one that is in doubt the destination is asked,
// and nothing else is done: its answer is the outcome. Devices of an attempt that ended
// with its process are taken back first.
//
// A connection that is lost is dialled again, and the attempt goes on where it was: for
// as long as Options say, and in doubt until the destination has answered.
//
// The report's Outcome says what may be done now; the error is nil exactly for
// migration.Committed and is a *transport.Fault where the cause has a place.
// Cancelling ctx before COMMIT takes the devices back to RUNNING; after it the
// destination is asked to give the devices back.
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

// ask asks the destination about a migration in doubt, and does what it says.
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

// engine starts the goroutines, carries events to the two machines (plan and
// owner) and does what they say. It decides nothing itself.
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
	quit   chan struct{} // closed when nobody takes events any more

	work   *tasks.Group // transitions, and the witness: ends when the streams are abandoned
	asking *tasks.Group // of work: PauseGuest, ResumeGuest and Approve, which end by themselves, or with work
	// returning is the way back: its steps end when the drivers are done, and the guest has
	// answered or resumeLimit is over.
	returning sync.WaitGroup

	unconfirmed       int  // devices that have not answered yet
	approvedWhileLost bool // the owner has approved while the destination was out of reach
	guestUp           bool // the guest runs again after a stop that was called off
}

// ending is what an attempt comes to.
type ending struct {
	report      migration.Report
	fault       *transport.Fault // the first cause
	unrecorded  *transport.Fault // why the journal has not taken a record
	done        bool
	mustRelease bool // the devices run elsewhere: release them
	stuck       bool // a driver has not let go of a read
}

// past is what a process before this one has left of an attempt in doubt.
type predecessor struct {
	inDoubt      bool   // it has recorded COMMIT, and sent what is acknowledged
	bytes        uint64 // of all streams, as recorded
	devicesReset bool   // the devices hold nothing of what they held at COMMIT
}

// hooks is what those that have run came to.
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

// loop takes events, those that begin brings first, until the hand-off says that it
// is over.
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

// joinLimit bounds the wait for a driver that was told to leave the saving
// states and yet holds on to a read.
const joinLimit = 5 * time.Second

// join ends what the loop started. The data lanes are closed after the control
// lane: a destination that lost them before it had heard ABORT would not know
// why.
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
	if e.mustRelease && !e.handoff.Empty { // what was reset since may be somebody else's by now
		e.releaseDevices()
	}
	if e.stuck {
		what := "not let go of a read"
		if e.watch.backTooLong {
			what = "not taken a device back"
		}
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("a driver has %s for %v; only a reset of the device, or the end of this process, ends it", what, joinLimit))
		return
	}
	e.fleet.closeStreams()
	e.pipe.close()
}

// abandon wakes everything that waits for a stream or a lane.
func (e *engine) stopStreams() {
	e.work.Stop()
	e.conn.stopLinked()
	e.pipe.stop()
}

// turnBack begins the way back, once.
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

// halt takes the first step of the way back after the last END. It ends when the drivers
// are done.
func (e *engine) haltDevices() {
	e.beginWayBack()
	e.returning.Go(func() {
		again, err := e.fleet.halt()
		e.post(halted{again, err})
	})
}

// resume takes the devices back; leaving the saving states is what wakes a
// drain that is blocked in its device. It ends when the drivers are done, and the guest
// has answered or resumeLimit is over.
func (e *engine) resumeDevices(reverted bool) {
	e.beginWayBack()
	paused := !e.times.paused.IsZero() || e.predecessor.inDoubt // by a process before this one
	sole, reset := e.handoff.Sole, e.predecessor.devicesReset
	e.returning.Go(func() {
		if reverted {
			e.hooks.running.Wait() // what on-commit does must not come later
			e.hooks.reverted = e.opts.OnRevert.Run(e.opts.Attempt)
		}
		ev := resumed{}
		ev.again, ev.err = e.fleet.resume(sole)
		ev.how = e.fleet.classifyReturn(ev.err)
		if reset {
			ev.how, ev.err = handoff.SomeRan, errors.Join(ev.err, errors.New("what the devices held at COMMIT is gone: they were reset since"))
		}
		e.asking.Wait() // a pause that came after ResumeGuest would last, and a VM is not to be moved and resumed at once
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

// askResume asks for the guest to be resumed, in a goroutine of the group, and waits for
// the answer as long as that may take.
func askResume(ctx context.Context, group *tasks.Group, resume func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resumeLimit, fmt.Errorf("no answer for %v", resumeLimit))
	defer cancel()
	answer := make(chan error, 1)
	group.Go(func(context.Context) { answer <- resume(ctx) }) // ends with ctx, if the owner of the guest heeds it
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	select { // which it may have given at the same time
	case err := <-answer:
		if err == nil {
			return nil
		}
	case <-time.After(joinLimit):
	}
	return context.Cause(ctx)
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

// hears takes in what was said on the control lane, and not on the one before.
func (e *engine) handleHeard(ev heard) {
	if ev.control == e.conn.control {
		e.handleMessage(ev.message)
	}
}

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
	if migration.Moves(e.phase()) { // else nothing goes through the stages
		ev.Occupancy = e.pipe.recent.Look(e.pipe.currentProgress(), e.pipe.queue.chunks)
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

// enterStates starts a transition; it ends by itself, when the drivers are done.
func (e *engine) enterStates(moves []plan.Move) {
	e.work.Go(func(context.Context) {
		began := time.Now()
		err := e.fleet.enter(moves)
		e.post(entered{time.Since(began), err})
	})
}

// resumeGuest ends by itself, or with work, and at the latest with resumeLimit.
func (e *engine) resumeGuest() {
	e.asking.Go(func(ctx context.Context) {
		e.post(guestResumed{askResume(ctx, e.asking, func(ctx context.Context) error {
			err := e.opts.ResumeGuest(ctx)
			e.guestUp = err == nil
			return err
		})})
	})
}

// pauseGuest ends by itself, or with work.
func (e *engine) pauseGuest() {
	e.asking.Go(func(ctx context.Context) { e.post(guestPaused{e.opts.PauseGuest(ctx)}) })
}

// approve ends by itself, or with work.
func (e *engine) approve() {
	e.asking.Go(func(ctx context.Context) { e.post(approved{e.opts.Approve(ctx)}) })
}

// askWitness asks for the attempt's register. It ends by itself, or with work.
func (e *engine) askWitness() {
	mark := e.handoff.Witness
	e.work.Go(func(ctx context.Context) {
		winner, err := witness.Ask(ctx, e.opts.Witness, mark, e.opts.Attempt, handoff.SourceSide)
		e.post(witnessed{winner, err})
	})
}

// onCommit runs the hook. It ends by itself.
func (e *engine) onCommit() {
	e.hooks.running.Go(func() { e.hooks.committed = e.opts.OnCommit.Run(e.opts.Attempt) })
}
