package reader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/report"
)

// connect opens the control lane.
func (e *engine) connect(ctx context.Context) error {
	e.tell(report.Event{Kind: report.Phase, Phase: report.Connect})
	lane, err := reach(ctx, e.opts.ConnectLimit, func(ctx context.Context) (transport.Lane, error) {
		return e.open(ctx, transport.LaneControl, 0, transport.ID{})
	})
	if err != nil {
		return err
	}
	e.control = transport.NewControl(lane)
	for i := range e.offer.Devices {
		e.offer.Devices[i].Splice = e.opts.Codec == nil && transport.Local(lane)
	}
	e.offer.Lanes = e.opts.lanes(transport.CarrierOf(lane))
	if err := e.allot(int(e.offer.Lanes)); err != nil {
		lane.Close()
		return err
	}
	return nil
}

func (e *engine) unreachable(ctx context.Context, err error) (report.Report, error) {
	e.out.Outcome = handoff.Rolledback
	e.finishReport()
	fault := &transport.Fault{Code: transport.CodeOf(err), Err: err}
	if ctx.Err() != nil {
		fault.Code = transport.CodeCancelled
	}
	return e.out, fault
}

// message takes in what the destination says. Before the hand-off judges it,
// the cause of a refusal is kept for the report.
func (e *engine) message(m transport.Message) {
	if *m.About() != e.opts.Attempt {
		return // of another attempt: an echo, or not ours
	}
	switch m := m.(type) {
	case *transport.Welcome:
		e.welcome(m)
	case *transport.Ack:
		e.acked(m)
		m.Release()
		return
	case *transport.Ready:
		if e.owner.Phase == handoff.SourceWaiting {
			e.clock.ready, e.atReady = time.Now(), e.progressed()
			if e.clock.filled.IsZero() { // READY says it, before any ACK has
				e.clock.filled = e.clock.ready
			}
			if e.opts.Approve == nil {
				e.tell(report.Event{Kind: report.Phase, Phase: report.Commit})
			}
		}
	case *transport.Running:
		if e.owner.Phase == handoff.SourceDoubt {
			e.clock.running, e.clock.startTook = time.Now(), time.Duration(m.StartNS)
			e.clock.witnessTook, e.clock.acceptTook = time.Duration(m.WitnessNS), time.Duration(m.AcceptNS)
			e.clock.sent = e.clock.start.Add(time.Duration(e.sent.Load()))
			e.tell(report.Event{Kind: report.Phase, Phase: report.Running})
		}
	case *transport.Declined:
		e.keep(e.declined(m))
	case *transport.NotStarted:
		e.keep(peerFault(cmp.Or(m.Code, transport.CodeStart), m.Device, 0, m.Text))
	case *transport.Status:
		e.hearing.proved(time.Since(e.clock.start))
		e.overruled(m)
		if f := meets(&e.opts, e.opts.Attempt, m); f != nil {
			e.keep(f)
		}
	default:
		e.failed(&transport.Fault{Code: transport.CodeProtocol, Err: fmt.Errorf("%w: %v from the destination", transport.ErrProtocol, m.Type())})
		return
	}
	e.own(m)
	if _, ready := m.(*transport.Ready); ready && e.assented { // while it was out of reach
		e.assented = false
		e.approved(nil)
	}
}

// policy is the codec that was asked for, or what suits the lanes, of those that the
// destination takes.
func (e *engine) policy(takes []codec.ID) codec.Policy {
	switch {
	case e.opts.Codec != nil:
		return newOnly(e.opts.Codec, takes)
	case transport.Local(e.control.Lane()):
		return codec.Fixed(codec.Raw)
	}
	return codec.Auto(append([]codec.ID{codec.IDRaw}, takes...)...)
}

func peerFault(code transport.Code, device string, offset uint64, text string) *transport.Fault {
	return &transport.Fault{Code: code, Remote: true, Device: transport.PeerText(device), Offset: offset, Err: errors.New(transport.PeerText(text))}
}

// declined is why the destination declines. Where it does so in no journal's name, to HELLO
// that was said again, the lane that was lost is the cause: the first HELLO was taken in.
func (e *engine) declined(m *transport.Declined) *transport.Fault {
	f := peerFault(m.Code, m.Device, m.Offset, m.Text)
	if e.owner.Phase == handoff.SourceHello && e.link.cause != nil && m.Journal == (transport.JournalID{}) {
		return &transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("%w; to HELLO on another lane it said: %s", e.link.cause, f.Err)}
	}
	return f
}

// keep remembers the first cause: what follows from it explains nothing.
func (e *engine) keep(f *transport.Fault) {
	if e.fault == nil {
		e.fault = f
	}
}

// notRecorded keeps why the journal has not taken a record, whatever else is a cause: a disk
// that fails is to be known of.
func (e *engine) notRecorded(r handoff.Record, err error) {
	e.unrecorded = cmp.Or(e.unrecorded, &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("journal %v: %w", r, err)})
	e.keep(e.unrecorded)
	e.own(handoff.Unrecorded{})
}

func (e *engine) fail(f *transport.Fault, ev handoff.Event) {
	e.keep(f)
	e.own(ev)
}

func (e *engine) failed(f *transport.Fault) {
	e.fail(f, handoff.Failed{Code: f.Code, Device: f.Device, Offset: f.Offset, Text: f.Err.Error()})
}

// welcome checks the answer to HELLO and opens the data lanes.
func (e *engine) welcome(m *transport.Welcome) {
	if e.owner.Phase != handoff.SourceHello || *m.About() != e.opts.Attempt {
		return
	}
	if err := checkWelcome(e.offer, m); err != nil {
		e.failed(&transport.Fault{Code: transport.CodeProtocol, Err: err})
		return
	}
	e.out.Peer = transport.PeerOf(e.control.Lane())
	e.tell(report.Event{Kind: report.Peer, Peer: e.out.Peer, Text: transport.PeerText(m.Software)})
	e.opts.Codec = e.policy(m.Codecs)
	for i, splice := range m.Splice {
		e.devices[i].splice = splice
	}
	e.opts.ChunkSize = int(m.ChunkSize)
	for i, w := range m.Windows {
		e.queue.grant(i, w)
	}
	e.meter.trip(time.Now(), time.Since(e.clock.hello)-time.Duration(max(m.HeldNS, 0)))
	e.startHint = time.Duration(min(max(m.EnterNS, 0), int64(time.Minute)))
	e.steps = e.opts.foresee(m, e.fleet.sources())
	if f := e.opts.checkWitness(m); f != nil {
		e.failed(f)
		return
	}
	if text := destinationWarns(m); text != "" {
		e.tell(report.Event{Kind: report.Warning, Text: text})
	}
	e.warnUnknown()
	e.dialLanes(int(m.Lanes))
}

func (e *engine) acked(m *transport.Ack) {
	if *m.About() != e.opts.Attempt || len(m.Devices) != len(e.devices) || e.restarted {
		return
	}
	for i, ack := range m.Devices {
		if err := e.queue.applied(i, ack.Seq); err != nil {
			e.failed(&transport.Fault{Code: transport.CodeProtocol, Err: err})
			return
		}
		e.queue.grant(i, ack.Window)
		d := e.devices[i]
		d.applied = max(d.applied, min(ack.Applied, d.read()))
		d.loads.look(d.applied, min(max(0, time.Duration(ack.LoadNS)), time.Since(e.clock.start)))
		if !e.clock.paused.IsZero() && e.clock.filled.IsZero() && d.applied > d.atPause.read {
			e.clock.filled = time.Now()
		}
	}
	now, held := time.Since(e.clock.start), time.Duration(max(m.HeldNS, 0))
	sound := e.hearing.echoed(now, min(now, time.Duration(m.Echo)), held)
	if sound && m.Echo > 0 && !e.padding(m.Echo) {
		e.meter.trip(time.Now(), now-time.Duration(m.Echo)-held)
	}
	if e.warm != nil {
		e.warm.arrived = max(e.warm.arrived, min(m.Padding, e.padded()))
	}
	e.measure()
	e.warming()
	e.overdue()
	e.watchReading(m)
}

// welcomeLimit is how long WELCOME may take. The destination asks the witness before.
func (o *Options) welcomeLimit() time.Duration {
	if o.Witness != nil {
		return o.ConnectLimit + witness.Timeout
	}
	return o.ConnectLimit
}

func (e *engine) noWelcome() {
	switch {
	case e.owner.Phase != handoff.SourceHello:
	case e.link.cause != nil:
		e.failed(&transport.Fault{Code: transport.CodeNetwork,
			Err: fmt.Errorf("%w within %v: %w", ErrNoWelcome, e.opts.welcomeLimit(), e.link.cause)})
	default:
		e.failed(&transport.Fault{Code: transport.CodeTimeout,
			Err: fmt.Errorf("%w within %v", ErrNoWelcome, e.opts.welcomeLimit())})
	}
}

// own steps the hand-off and does what it says.
func (e *engine) own(ev handoff.Event) {
	failpoint.Reach("source", "on", ev)
	next, actions := e.owner.Step(ev)
	e.owner = next
	e.do(actions)
}

// do does what the hand-off says, in order.
func (e *engine) do(actions []handoff.Action) {
	for _, a := range actions {
		failpoint.Reach("source", "do", a)
		switch a := a.(type) {
		case handoff.Append:
			a.Entry.PeerID, a.Entry.Why = e.out.Peer, e.why()
			if err := e.opts.Journal.Append(a.Entry); err != nil {
				e.notRecorded(a.Entry.Record, err)
				return
			}
			if a.Entry.Record == handoff.Commit {
				e.onCommit()
			}
		case handoff.SendHello:
			e.clock.hello = time.Now()
			e.send(e.offer)
		case handoff.Send:
			e.send(a.Message)
		case handoff.AskApproval:
			e.askApproval()
		case handoff.AskWitness:
			e.askWitness()
		case handoff.Halt:
			e.halt()
		case handoff.Resume:
			e.resume(a.Reverted)
		case handoff.Release:
			e.letGo = true
		case handoff.Finish:
			e.out.Outcome, e.done = a.Outcome, true
		}
		failpoint.Reach("source", "did", a)
	}
}

// why is what people will want to know of a record.
func (e *engine) why() handoff.Why {
	w := handoff.Why{Bytes: e.bytes}
	for _, d := range e.devices {
		w.Bytes += d.read()
	}
	if e.fault != nil {
		w.Code, w.Text = e.fault.Code, e.fault.Error()
	}
	return w
}

// send is best effort: a lane that fails is seen by receive.
func (e *engine) send(m transport.Message) {
	switch m := m.(type) {
	case *transport.Fin:
		m.TotalNS, m.DowntimeNS = e.total().Nanoseconds(), e.downtime().Nanoseconds()
		for _, s := range e.clock.stages() {
			m.Stages = append(m.Stages, transport.FinStage{Name: s.Name, NS: s.Took.Nanoseconds()})
		}
	case *transport.Abort: // where the hand-off itself found the cause
		e.keep(&transport.Fault{Code: m.Code, Err: errors.New(m.Text)})
	}
	e.say(m)
}

func (e *engine) halted(ev halted) {
	e.out.Warnings = append(e.out.Warnings, ev.again...)
	if ev.err != nil {
		e.out.Warnings = append(e.out.Warnings, takingBack(ev.err))
	}
	e.own(handoff.Halted{Failed: ev.err != nil})
}

func (e *engine) resumed(ev resumed) {
	e.clock.resumed = ev.at
	e.out.Warnings = append(e.out.Warnings, ev.again...)
	if ev.err != nil {
		e.out.Warnings = append(e.out.Warnings, takingBack(ev.err))
	}
	if ev.guest != nil {
		e.out.GuestUnheard = true
		e.tell(report.Event{Kind: report.Warning, Text: guestUnheard(ev.guest)})
	}
	e.own(handoff.Resumed{How: ev.how})
}

func takingBack(err error) string { return fmt.Sprintf("take the devices back: %v", err) }

func guestUnheard(err error) string {
	return fmt.Sprintf("resume the guest: %v: the devices run, and whether the guest does is not known", err)
}

// release ends the source's sessions. The guest runs elsewhere by now, so a
// failure is worth a warning and no more.
func (e *engine) release() {
	if err := e.fleet.release(); err != nil {
		e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("leave STOP_COPY: %v", err))
	}
}

// estimate tells the destination what is still to come.
func (e *engine) estimate() {
	m := &transport.Estimate{Attempt: e.opts.Attempt, Stopped: !e.clock.stopped.IsZero(), Stamp: max(1, time.Since(e.clock.start).Nanoseconds())}
	for i := range e.devices {
		p := e.plan.devices[i].pending
		d := transport.DeviceEstimate{Initial: p.Initial, Dirty: p.Dirty, StopCopy: e.plan.devices[i].size}
		d.Known = d.Initial+d.Dirty+d.StopCopy > 0
		m.Devices = append(m.Devices, d)
	}
	e.say(m)
}

func (e *engine) onTick() {
	e.measure()
	e.warming()
	e.meterWires(time.Now())
	e.pollBusy()
	e.advance(ticked{})
	e.overdue()
	e.watch()
	e.queue.divide(e.needs())
	if e.moving() {
		e.estimate()
	}
	e.tell(report.Event{Kind: report.Progress, Devices: e.snapshots(), Way: e.way(),
		Fill: e.recent.look(e.progressed(), e.queue.fill.chunks), Waiting: e.plan.waiting(time.Since(e.clock.start))})
}

// watch bounds what time the guest stands still for. What a device does before
// the stop, is its guest's business.
func (e *engine) watch() {
	e.watchHearing()
	switch e.owner.Phase {
	case handoff.SourceDoubt:
		e.watchDoubt(time.Since(e.clock.decided()))
	case handoff.SourceDeciding:
		e.watchDecision()
		e.watchLink()
	case handoff.SourceTransfer, handoff.SourceWaiting:
		e.watchStop()
		e.watchLink()
	case handoff.SourceHalting, handoff.SourceResuming:
		e.watchBack()
	}
}

// watchStop ends a stop that lasts too long, and one in which nothing moves any
// more.
func (e *engine) watchStop() {
	if e.clock.paused.IsZero() {
		return
	}
	var moved uint64
	for _, d := range e.devices {
		moved += d.read() + d.applied
	}
	if moved != e.progress {
		e.progress, e.clock.moved = moved, time.Now()
	}
	var err error
	switch past := time.Since(e.clock.paused) >= e.opts.MaxDowntime; {
	case e.plan.phase == unpausing: // for resumeLimit, at most
		return
	case past && e.plan.phase == pausing:
		err = fmt.Errorf("%w for %v", ErrNotPaused, e.opts.MaxDowntime)
	case past:
		err = fmt.Errorf("the destination is not ready: %w for %v", ErrMaxDowntime, e.opts.MaxDowntime)
	case !e.clock.stopped.IsZero() && time.Since(e.clock.moved) >= e.opts.StallLimit:
		err = fmt.Errorf("%w for %v while the guest stood still", ErrStalled, e.opts.StallLimit)
	default:
		return
	}
	f := &transport.Fault{Code: transport.CodeTimeout, Err: err}
	if e.owner.Phase == handoff.SourceTransfer && e.plan.phase != pausing {
		f.Device, f.Offset = e.slowest()
	}
	e.failed(f)
}

// backLimit is how long the way back may take after the last END: then the destination is
// not told any more to drop its copy.
const backLimit = 30 * time.Second

// watchBack tells of a driver that takes its time to give a device back, and ends the wait
// for it where the destination may hold a copy.
func (e *engine) watchBack() {
	took := time.Since(e.clock.back)
	if !e.slow && took > joinLimit {
		e.slow = true
		e.tell(report.Event{Kind: report.Warning, Text: "the devices, or the guest, have not come back yet"})
	}
	if !e.owner.Sole || took <= backLimit {
		return
	}
	e.tooLong = true
	e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("the devices have not come back for %v", backLimit))
	if e.owner.Phase == handoff.SourceHalting { // none is told to run any more
		e.own(handoff.Halted{Failed: true})
	} else {
		e.own(handoff.Resumed{How: handoff.SomeRan})
	}
}

// doubtTold is when the user is told that COMMIT is not answered.
const doubtTold = time.Second

// lastTry is how long one who has cancelled waits for a destination that is out of reach.
const lastTry = 5 * time.Second

// watchDoubt bounds the wait for the answer to COMMIT. Nothing of it takes the
// devices back: that is the destination's to say.
func (e *engine) watchDoubt(waited time.Duration) {
	e.watchWitness(waited)
	if waited > doubtTold && !e.doubtSaid {
		e.doubtSaid = true
		e.tell(report.Event{Kind: report.Warning, Text: "in doubt: the destination has not answered COMMIT yet"})
	}
	switch limit := e.doubtLimit(waited); {
	case waited > limit:
		f := e.link.refusal
		if f == nil {
			f = &transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf("the destination has not answered COMMIT for %v", round(waited))}
		}
		e.fail(f, handoff.Unreachable{})
	case waited > e.opts.CancelAfter && !e.askedBack && !e.owner.Empty:
		e.askedBack = true
		e.own(handoff.Interrupt{})
	}
}

// doubtLimit is how long the answer may take. Nobody who has cancelled waits for long
// where the destination is out of reach.
func (e *engine) doubtLimit(waited time.Duration) time.Duration {
	limit := cmp.Or(e.opts.doubtLimit(), unlimited)
	if !e.cancelledAt.IsZero() {
		patience := e.opts.StallLimit
		if e.control == nil {
			patience = lastTry
		}
		limit = min(limit, waited-time.Since(e.cancelledAt)+patience)
	}
	return limit
}

// slowest is a device whose stream has not ended yet.
func (e *engine) slowest() (name string, offset uint64) {
	for i, d := range e.devices {
		if !e.plan.devices[i].ended {
			return d.Name, d.read()
		}
	}
	return "", 0
}
