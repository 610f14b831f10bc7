package writer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/report"
)

// tick is how often progress is told and time-driven decisions are looked at.
const tick = 100 * time.Millisecond

// Receive serves one migration from a peer that listener accepts, into sinks,
// as one set: all of them run in the end, or none, and those that do not run
// are reset. It returns when every goroutine that it started has ended; only a
// write that its driver does not let go may outlive it, with the reset that waits
// for the write, and the report says so. The listener stays open.
//
// The report's Outcome says what may be done now; the error is nil exactly for
// handoff.Committed and is a *transport.Fault where the cause has a place.
// Cancelling ctx before the copy is complete resets the devices. A complete copy may be
// the last one: the source is asked to take its devices back, and the copy is reset when
// the source says that it has. While the source is away the copy stays, and is left as
// READY (ErrLeft) on the word of Options.Leave.
//
// A source that is refused, that goes before it opens a data lane, or that is let go of before
// a byte of its streams has come, does not end it: that is observed, and the next source is waited for, until ctx ends. Devices
// that were touched have been reset by then.
//
// A source whose connection is lost may reconnect for as long as Options.ReconnectLimit
// allows, and to a complete copy for ever. A source that asks for an attempt which only the
// journal knows is answered from the journal, unless the sinks hold its complete copy
// (vfio.Resumable): that attempt continues. An attempt ends when its source opens a newer one,
// which is then served.
func Receive(ctx context.Context, listener transport.Listener, sinks []Sink, opts *Options) (report.Report, error) {
	o, err := opts.withDefaults()
	if err == nil {
		err = checkSinks(sinks)
	}
	if err != nil {
		return report.Report{Outcome: handoff.Rolledback}, err
	}
	told := new(refusals)
	for next, waits := (*admitted)(nil), (handoff.Entry{}); ; o.Recover = (transport.MigID{}) {
		e := newEngine(o, sinks)
		e.told, e.waits = told, waits
		e.loop(ctx, listener, next)
		next, waits = e.successor, e.waits
		ended := e.out.Outcome != handoff.Rolledback || ctx.Err() != nil
		nothing := !ended && e.cameToNothing()
		switch {
		case ended && next != nil:
			next.lane.Close()
			return e.result()
		case next == nil && !nothing:
			return e.result()
		}
		if nothing {
			e.tellRefused(e.fault)
			told.pause(ctx)
		}
		if next != nil && next.pre.Mig == e.out.Attempt.Mig {
			e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("attempt %d of this migration has ended: its source has opened a newer one", e.out.Attempt.Epoch)})
		}
	}
}

// engine starts the goroutines, carries events to the hand-off machine and
// does what it says. It decides nothing itself.
type engine struct {
	opts    Options
	owner   handoff.Dest
	journal handoff.Journal // nil before HELLO
	fleet   *fleet
	devices []*device          // of the fleet, in HELLO's order once that has come
	control *transport.Control // nil before a source has come, and while it is lost
	lostAt  time.Time          // when it was lost, zero while it stands
	saidAt  time.Time          // when the source last said something
	local   bool               // the source is a process of this host
	offer   *transport.Hello   // nil before HELLO, and after a restart
	terms   terms

	arena     *transport.Arena // these five from the moment of WELCOME
	acks      *acker
	credit    *credit
	complete  int                           // loaders that ended well
	ends      int                           // ENDs received
	recent    recent                        // these three for how full the stages are
	asOfStop  progress                      // when the guest had stopped
	asOfReady progress                      // when every device had its state, nil before
	lanes     []*receiver                   // by number, nil before they are dialled; in place of a lost one its successor
	turned    atomic.Int32                  // sources being told that another is served
	told      *refusals                     // of this Receive
	alarms    map[transport.MigID]time.Time // when each migration last raised one
	late      []transport.Lane              // opened when the attempt was already over
	dismissed []transport.Lane              // of sources that were sent away, as long as they may be reading why
	asking    *preflight                    // the last one; nil before
	answering guests                        // who is answered from a journal
	postponed map[transport.ID]admitted     // HELLOs of those

	events chan any
	quit   chan struct{} // closed when nobody takes events any more

	work      context.Context // ends when the streams are abandoned
	stopWork  context.CancelFunc
	accepting sync.WaitGroup // acceptor and lanes being admitted: stopped by stopAccept, and by deadlines
	receiving sync.WaitGroup // lane receivers: stopped by the lane's end or abandon
	loading   sync.WaitGroup // loaders: stopped by the stream's end or stopWork
	hearing   sync.WaitGroup // control reader: by the control lane's end
	acking    sync.WaitGroup // acker: stopped by quit
	others    sync.WaitGroup // transitions, preflights, and sources being turned away: end by themselves

	life       context.Context // ends with the loop
	endLife    context.CancelFunc
	successor  *admitted // the source's next attempt, when it has ended this one
	deaf       error     // why no more lanes are accepted
	times      timing
	watch      watch
	probe      probed // what the witness said meanwhile
	endProbe   context.CancelFunc
	letGo      bool // the source alone has ended the attempt: it was refused, or has sent nothing
	fault      *transport.Fault
	tooLate    *transport.Fault // the first that came while the devices were started
	unrecorded *transport.Fault // why the journal has not taken a record
	out        report.Report

	complained  transport.Attempt // of which it was told that what is kept of it could not be gone on with
	waits       handoff.Entry     // what was accepted before the host was restarted, and waits for its source
	bytes       uint64            // of the streams, as recorded before a restart
	stuck       bool              // a driver has not let go of a write
	preparing   bool              // devices are on their way to RESUMING
	interrupted bool              // meanwhile somebody cancelled, or the source was lost
	leaving     bool              // the user wants to end as soon as he was told so
	done        bool
}

func newEngine(o Options, sinks []Sink) *engine {
	e := &engine{opts: o, fleet: newFleet(sinks), events: make(chan any, 16), quit: make(chan struct{})}
	e.devices = e.fleet.devices
	e.watch.limits = watchLimits{o.ReconnectLimit, o.StallLimit, o.ReadyAlarm, o.ReadyLease}
	e.fleet.warn = func(err error) { e.post(warned{err}) }
	e.life, e.endLife = context.WithCancel(context.Background())
	e.work, e.stopWork = context.WithCancel(context.Background())
	return e
}

// loop takes events until the hand-off says that it is over, then stops and
// joins everything. first is a source that has come before, if there is one.
func (e *engine) loop(ctx context.Context, listener transport.Listener, first *admitted) {
	acceptCtx, stopAccept := context.WithCancel(context.Background())
	e.accepting.Go(func() { e.accept(acceptCtx, listener) })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	cancelled, leave := ctx.Done(), e.opts.Leave
	e.restart()
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
			e.interrupt(context.Cause(ctx))
		case _, ok := <-leave:
			if !ok { // closed: the wish lasts
				leave, e.leaving = nil, true
			}
			e.leave()
		}
	}
	close(e.quit)
	e.endLife()
	stopAccept()
	e.accepting.Wait()
	e.join()
	e.forget()
	e.keepTimes()
}

// join ends what the loop started. It is in the order of the data's way, so
// that nobody hands a chunk to somebody who has gone. The data lanes are closed
// after the control lane: a source that lost them first would not know why.
func (e *engine) join() {
	e.stuck = e.stuck || !e.abandon()
	e.acking.Wait() // CloseWrite must not come beside a Write
	if e.control != nil {
		transport.HangUp(e.control.Lane(), e.hearing.Wait)
	}
	e.hearing.Wait()
	for _, r := range e.dialled() {
		r.lane.Close()
	}
	for _, l := range slices.Concat(e.late, e.dismissed) {
		l.Close()
	}
	e.others.Wait()
	if !e.stuck {
		e.free()
	}
	e.closeJournal()
}

// free gives back what chunks and their writers used.
func (e *engine) free() {
	e.fleet.closeStreams()
	if e.arena == nil {
		return
	}
	if err := e.arena.Close(); err != nil {
		panic(err)
	}
}

// joinLimit bounds the wait for a driver that holds on to a write although its
// device is to be reset.
const joinLimit = 5 * time.Second

// abandon wakes and joins everything that carries chunks, and lets go of those
// that will not be written. It reports whether all has ended within joinLimit;
// if not, the last write takes what it uses with it, whenever it ends.
func (e *engine) abandon() bool {
	e.stopWork()
	for _, r := range e.dialled() {
		r.lane.SetDeadline(time.Unix(1, 0))
	}
	ended, late := make(chan struct{}), make(chan struct{})
	go func() { // ends with the last write
		e.receiving.Wait()
		e.loading.Wait()
		for _, d := range e.devices {
			if d.merge != nil {
				d.merge.drop()
			}
		}
		select {
		case ended <- struct{}{}:
		case <-late:
			e.free()
		}
	}()
	select {
	case <-ended:
		return true
	case <-time.After(joinLimit):
		close(late)
		return false
	}
}

// post hands an event to the loop, or drops it when the loop has ended.
func (e *engine) post(ev any) {
	select {
	case e.events <- ev:
	case <-e.quit:
	}
}

// Events of the engine's own goroutines.
type (
	admitted struct {
		lane    transport.Lane
		pre     transport.Preamble
		control *transport.Control // of a control lane, and the
		first   transport.Message  // first that was said there
	}
	controlLost struct {
		control *transport.Control
		err     error
	}
	heard struct {
		control *transport.Control
		message transport.Message
	}
	acceptFailed struct{ err error }
	prepared     struct {
		took  time.Duration
		err   error
		probe probed
	}
	started struct {
		took   time.Duration
		accept time.Duration // the hook, which ran before; 0 for none
		err    error
		copy   handoff.Copy
	}
	wasReset struct {
		err   error
		stuck bool // a driver has not let go of a write
	}
	warned   struct{ err error }         // and the attempt continues
	answered struct{ peer transport.ID } // from a journal
)

// handle sends an event where it belongs.
func (e *engine) handle(ev any) {
	switch ev := ev.(type) {
	case admitted:
		e.admitted(ev)
	case heard:
		if ev.control == e.control {
			e.saidAt = time.Now()
			e.message(ev.message)
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
		e.out.Warnings = append(e.out.Warnings, ev.err.Error())
	case preflightHeard:
		e.tell(ev.told)
	case alarmed:
		e.raise(ev.told)
	}
}

// accept takes lanes until ctx ends, and has each say what it is for.
func (e *engine) accept(ctx context.Context, listener transport.Listener) {
	slots := make(chan struct{}, transport.MaxHalfOpen)
	for {
		lane, err := listener.Accept(ctx)
		if err != nil {
			if ctx.Err() == nil {
				e.post(acceptFailed{fmt.Errorf("accept: %w", err)})
			}
			return
		}
		select {
		case slots <- struct{}{}:
		default: // more silent lanes than a migration can have
			lane.Close()
			continue
		}
		e.accepting.Go(func() {
			e.admit(ctx, lane)
			<-slots
		})
	}
}

// admit reads a lane's preamble, and the first message of a control lane. It ends
// within HandshakeTimeout, or with ctx.
func (e *engine) admit(ctx context.Context, lane transport.Lane) {
	lane.SetDeadline(time.Now().Add(transport.HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ev := admitted{lane: lane}
	var err error
	if ev.pre, err = transport.ReadPreamble(lane); err == nil && ev.pre.Kind == transport.LaneControl {
		ev.control = transport.NewControl(lane)
		ev.first, err = ev.control.Receive()
	}
	if err != nil || !stop() {
		lane.Close()
		return
	}
	lane.SetDeadline(time.Time{})
	select {
	case e.events <- ev:
	case <-e.quit:
		lane.Close()
	}
}

func (e *engine) admitted(ev admitted) {
	switch {
	case ev.pre.Kind == transport.LaneData:
		e.dataLane(ev)
	case ev.pre.Kind == transport.LaneProbe:
		e.probeLane(ev)
	case ev.pre.Kind == transport.LanePreflight && e.engaged():
		e.turnAway(ev, e.occupied())
	case ev.pre.Kind == transport.LanePreflight:
		e.preflight(ev)
	default:
		e.greeted(ev)
	}
}

// hear takes messages from a control lane from now on.
func (e *engine) hear(control *transport.Control) {
	e.control, e.lostAt, e.saidAt = control, time.Time{}, time.Now()
	e.out.Over(control.Lane())
	e.hearing.Go(func() { e.receive(control) })
}

// turnAway tells a source why it is not served, unless too many are being told.
func (e *engine) turnAway(ev admitted, why *transport.Fault) {
	if e.turned.Add(1) > maxTurned {
		e.turned.Add(-1)
		ev.lane.Close()
		return
	}
	e.tellTurned(ev.lane, why.Err.Error())
	e.others.Go(func() {
		defer e.turned.Add(-1)
		turnAway(ev, why)
	})
}

// preflight answers one preflight at a time. It ends by itself, or with work.
func (e *engine) preflight(ev admitted) {
	if !e.asking.over() {
		e.turnAway(ev, &transport.Fault{Code: transport.CodeLimit, Err: errors.New("this destination already answers a preflight")})
		return
	}
	p := newPreflight(e.work, e, ev)
	e.asking = p
	e.others.Go(p.run)
}

// probeLane has a lane of the preflight read, until one of them ends.
func (e *engine) probeLane(ev admitted) {
	p := e.asking
	if p == nil || !p.takes(ev) {
		ev.lane.Close()
		return
	}
	e.others.Go(func() { p.discard(ev.lane) })
}

// receive hands the source's messages to the loop. It ends with the lane.
func (e *engine) receive(control *transport.Control) {
	for {
		m, err := control.Receive()
		if err != nil {
			e.post(controlLost{control, err})
			return
		}
		e.post(heard{control, m})
	}
}

// dataLane starts a receiver, if the lane is of this migration and peer.
func (e *engine) dataLane(ev admitted) {
	a := transport.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}
	i, ours := int(ev.pre.Index), e.engaged() && a == e.owner.Attempt && transport.IsPeer(ev.lane, e.out.Peer)
	if !ours || i >= len(e.lanes) || e.local && e.lanes[i] != nil {
		ev.lane.Close()
		return
	}
	if e.owner.Phase != handoff.DestReceiving {
		if len(e.late) < len(e.lanes) {
			e.late = append(e.late, ev.lane) // closed now, it would hide from the source why
		} else {
			ev.lane.Close()
		}
		return
	}
	r := &receiver{lane: ev.lane, arena: e.arena, devices: e.devices, local: e.local, over: make(chan struct{}),
		read: &e.acks.read[i], padded: e.acks.padded, quit: e.work.Done()}
	for _, id := range agreed(e.offer.Codecs) {
		r.codecs[id] = true
	}
	before := e.lanes[i]
	if before != nil { // the source has lost it, and this side may not know
		before.lane.SetDeadline(time.Unix(1, 0))
	}
	e.lanes[i] = r
	e.receiving.Go(func() { r.receive(before, e.post) })
}

// dialled are the receivers of the lanes that the source has dialled so far.
func (e *engine) dialled() []*receiver {
	return slices.DeleteFunc(slices.Clone(e.lanes), func(r *receiver) bool { return r == nil })
}

// answer serves a source from its journal alone.
func (e *engine) answer(ev admitted, m *transport.Resume) {
	e.inform(ev, func() {
		answer(e.life, ev, m, e.opts.Journals, e.alarm, func() {
			if err := e.fleet.removeSessions(m.Mig); err != nil {
				e.post(warned{fmt.Errorf("remove what is left of migration %v: %w", m.Mig, err)})
			}
		})
	})
}

// inform has a source told something, one thing at a time. It ends by itself, or with life.
func (e *engine) inform(ev admitted, tell func()) {
	peer := transport.PeerOf(ev.lane)
	if !e.answering.enter(peer) {
		ev.lane.Close() // it asks again
		return
	}
	e.others.Go(func() {
		tell()
		e.answering.leave(peer)
		e.post(answered{peer})
	})
}

// prepare opens the devices' sessions, and asks the witness meanwhile. It ends when the
// drivers are done, and the witness has answered or endProbe was called.
func (e *engine) prepare() {
	e.preparing = true
	mig, offered, terms := e.offer.Mig, e.offer.Devices, e.terms
	ctx, cancel := context.WithCancel(e.work)
	e.endProbe = cancel
	e.others.Go(func() {
		defer cancel()
		var probe probed
		var probing sync.WaitGroup
		probing.Go(func() {
			probe = e.opts.probe(ctx)
			probe.doubts = terms.doubts(offered, e.opts.MaxState)
		})
		began := time.Now()
		err := e.fleet.removeSessions(mig) // of an attempt before this one
		if err == nil {
			err = e.fleet.prepare()
		}
		took := time.Since(began)
		if err != nil {
			cancel()
		}
		probing.Wait()
		e.post(prepared{took, err, probe})
	})
}

// loads reports whether memory is set aside and the loaders have been started.
func (e *engine) loads() bool { return e.acks != nil }

// begin sets memory aside and starts the loaders.
func (e *engine) begin() error {
	devices := e.devices
	arena, err := transport.NewArena(e.opts.Memory, e.terms.chunkSize, least(e.terms.lanes, len(devices)))
	if err != nil {
		return err
	}
	e.arena, e.lanes = arena, make([]*receiver, e.terms.lanes)
	for _, d := range devices {
		d.estimate = transport.DeviceEstimate{StopCopy: d.offer.Estimate, Known: d.offer.Estimate > 0}
	}
	e.credit = newCredit(arena.Count()-e.terms.lanes, e.terms.chunkSize, e.needs())
	merges := make([]*merge, len(devices))
	for i, d := range devices {
		merges[i] = newMerge(e.credit, i, e.opts.MaxState)
		d.merge = merges[i]
	}
	e.acks = &acker{attempt: e.offer.Attempt, journal: e.journal.ID(),
		credit: e.credit, merges: merges, read: make([]atomic.Uint64, e.terms.lanes), due: make(chan struct{}, 1), quit: e.quit}
	e.acks.control.Store(e.control)
	for i, d := range devices {
		l := &loader{
			device: i, name: d.Name, dev: d.Device, stream: d.stream,
			merge: d.merge, digest: transport.NewDigest(), post: e.post, applied: func() { e.acks.applied(i) },
		}
		if e.fleet.persistent() {
			l.note = newNote(e.offer, i, e.journal.ID())
		}
		d.loader = l
		e.loading.Go(func() { l.run(e.work) })
	}
	e.acking.Go(e.acks.run)
	return nil
}

// askWitness asks for the attempt's register, and takes its time to say that there
// was no answer. It ends by itself, or with work.
func (e *engine) askWitness() {
	a, mark := e.owner.Attempt, e.owner.Witness
	if e.times.steps.askedAt.IsZero() {
		e.times.steps.askedAt = time.Now()
	}
	e.others.Go(func() {
		winner, err := witness.Ask(e.work, e.opts.Witness, mark, a, handoff.DestSide)
		if err != nil {
			select {
			case <-time.After(witnessPause):
			case <-e.work.Done():
			}
		}
		e.post(witnessed{winner, err})
	})
}

// start runs the devices; it ends when the drivers are done.
func (e *engine) start() {
	a := e.owner.Attempt
	e.others.Go(func() {
		began := time.Now()
		failed, warning := e.accepted(a)
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
			ev.copy = e.fleet.unstart()
		}
		e.post(ev)
	})
}

// startGuest ends by itself.
func (e *engine) startGuest(devices time.Duration) {
	e.others.Go(func() {
		began := time.Now()
		err := e.opts.StartGuest(context.Background())
		e.post(guestStarted{devices, time.Since(began), err})
	})
}

// reset drops what the devices hold. It goes on beside the join of the loaders,
// since it is what wakes one that waits in its device, while a device that must
// not be reset under a write waits for that (vfio.Device.Reset). A driver that
// has let go of every write may take its time.
func (e *engine) reset() {
	e.tell(report.Event{Kind: report.Phase, Phase: report.Rollback})
	e.times.resetting = time.Now()
	e.others.Go(func() {
		e.stopWork()
		done := make(chan error, 1)
		go func() { done <- e.fleet.reset() }() // of a stuck driver, ends with the write
		if !e.abandon() {
			e.post(wasReset{errors.Join(sofar(done), fmt.Errorf("a driver has not let go of a write for %v", joinLimit)), true})
			return
		}
		err := errors.Join(<-done, e.fleet.settle())
		e.fleet.closeStreams()
		e.post(wasReset{err, false})
	})
}

// sofar is what a call that may be under way has said already.
func sofar(done <-chan error) error {
	select {
	case err := <-done:
		return err
	default:
		return nil
	}
}

// parallel runs do for 0 to n-1 at once and joins them.
func parallel(n int, do func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
