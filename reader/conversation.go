package reader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
)

// connect opens the control lane.
func (e *engine) connect(ctx context.Context) error {
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Connect})
	lane, err := reach(ctx, e.opts.ConnectFor, func(ctx context.Context) (transport.Lane, error) {
		return e.conn.openLane(ctx, wire.LaneControl, 0, transport.PeerID{})
	})
	if err != nil {
		return err
	}
	e.conn.control = wire.NewControl(lane)
	for i := range e.offer.Devices {
		e.offer.Devices[i].Splice = e.opts.Codec == nil && wire.Local(lane)
	}
	e.offer.Lanes = e.opts.laneCount(transport.CarrierOf(lane))
	if err := e.pipe.allocate(e.opts.Memory, e.opts.ChunkSize, int(e.offer.Lanes), e.needs()); err != nil {
		lane.Close()
		return err
	}
	return nil
}

func (e *engine) reportUnreachable(ctx context.Context, err error) (migration.Report, error) {
	e.report.Outcome = migration.Aborted
	e.finishReport()
	fault := &transport.Fault{Code: transport.CodeOf(err), Err: err}
	if ctx.Err() != nil {
		fault.Code = transport.CodeCancelled
	}
	return e.report, fault
}

// handleMessage handles a message of the destination. It notes the cause of a refusal for the
// report, and then steps the hand-off.
func (e *engine) handleMessage(m wire.Message) {
	if *m.About() != e.opts.Attempt {
		return // of another attempt
	}
	switch m := m.(type) {
	case *wire.Welcome:
		e.handleWelcome(m)
	case *wire.Ack:
		e.handleAck(m)
		m.Release()
		return
	case *wire.Ready:
		if e.handoff.AwaitsReady() && e.plan.Phase() == plan.Drained {
			e.times.ready, e.pipe.atReady = time.Now(), e.pipe.currentProgress()
			if e.times.firstApplied.IsZero() { // READY shows it before any ACK
				e.times.firstApplied = e.times.ready
			}
			if e.opts.Approve == nil {
				e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Commit})
			}
		}
	case *wire.Running:
		if e.handoff.InDoubt() {
			e.times.running, e.times.startTook = time.Now(), time.Duration(m.StartNS)
			e.times.witnessTook, e.times.acceptTook = time.Duration(m.WitnessNS), time.Duration(m.AcceptNS)
			e.times.sent = e.times.start.Add(time.Duration(e.pipe.lastSentAt.Load()))
			e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Running})
		}
	case *wire.Declined:
		e.noteCause(e.declineCause(m))
	case *wire.NotStarted:
		e.noteCause(peerFault(cmp.Or(m.Code, transport.CodeStart), m.Device, 0, m.Text))
	case *wire.Status:
		e.conn.hearing.prove(time.Since(e.times.start))
		e.noteOverruled(m)
		if f := checkBothMayRun(&e.opts, e.opts.Attempt, m); f != nil {
			e.noteCause(f)
		}
	default:
		e.fail(&transport.Fault{Code: transport.CodeProtocol, Err: fmt.Errorf("%w: %v from the destination", transport.ErrProtocol, m.Type())})
		return
	}
	e.stepHandoff(handoff.Received{Message: m})
	if _, ready := m.(*wire.Ready); ready && e.approvedWhileLost { // while the destination was out of reach
		e.approvedWhileLost = false
		e.approved(nil)
	}
}

// chooseCodec is the codec of Options, or the one that suits the lanes, restricted to the codecs
// that the destination takes.
func (e *engine) chooseCodec(takes []codec.ID) codec.Policy {
	switch {
	case e.opts.Codec != nil:
		return newCodecFilter(e.opts.Codec, takes)
	case wire.Local(e.conn.control.Lane()):
		return codec.Fixed(codec.Raw)
	}
	return codec.Auto(append([]codec.ID{codec.IDRaw}, takes...)...)
}

// declineCause is why the destination declines. If DECLINED has no journal and answers a repeated
// HELLO, the lost lane is the cause: the destination took the first HELLO.
func (e *engine) declineCause(m *wire.Declined) *transport.Fault {
	f := peerFault(m.Code, m.Device, m.Offset, m.Text)
	if e.handoff.AwaitsWelcome() && e.conn.lossCause != nil && m.Journal == (migration.JournalID{}) {
		return &transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("%w; to HELLO on another lane it said: %s", e.conn.lossCause, f.Err)}
	}
	return f
}

// noteCause notes the first cause. Later faults follow from it and explain nothing.
func (e *engine) noteCause(f *transport.Fault) {
	if e.fault == nil {
		e.fault = f
	}
}

// noteUnrecorded notes why the journal did not take a record, beside any other cause: the user must
// learn of a failing disk.
func (e *engine) noteUnrecorded(r handoff.Record, err error) {
	e.unrecorded = cmp.Or(e.unrecorded, &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("journal %v: %w", r, err)})
	e.noteCause(e.unrecorded)
	e.stepHandoff(handoff.Unrecorded{})
}

// endBy ends the attempt by a fault and the event for the hand-off.
func (e *engine) endBy(f *transport.Fault, ev handoff.SourceEvent) {
	e.noteCause(f)
	e.stepHandoff(ev)
}

// fail ends the attempt by a fault of this side.
func (e *engine) fail(f *transport.Fault) {
	e.endBy(f, handoff.Failed{Code: f.Code, Device: f.Device, Offset: f.Offset, Text: f.Err.Error()})
}

// handleWelcome checks the answer to HELLO and opens the data lanes.
func (e *engine) handleWelcome(m *wire.Welcome) {
	if !e.handoff.AwaitsWelcome() || *m.About() != e.opts.Attempt {
		return
	}
	if err := checkWelcome(e.offer, m); err != nil {
		e.fail(&transport.Fault{Code: transport.CodeProtocol, Err: err})
		return
	}
	e.report.Peer = transport.PeerOf(e.conn.control.Lane())
	e.conn.peer = e.report.Peer
	e.emit(migration.Event{Kind: migration.Peer, Peer: e.report.Peer, Text: transport.PeerText(m.Software)})
	e.opts.Codec = e.chooseCodec(m.Codecs)
	for i, splice := range m.Splice {
		e.devices[i].splice = splice
	}
	e.opts.ChunkSize = int(m.ChunkSize)
	e.pipe.useTerms(e.opts.ChunkSize, e.opts.Codec)
	for i, w := range m.Windows {
		e.pipe.queue.grant(i, w)
	}
	e.pipe.meter.noteRTT(time.Now(), time.Since(e.times.hello)-time.Duration(max(m.HeldNS, 0)))
	e.times.enterTook = time.Duration(min(max(m.EnterNS, 0), int64(time.Minute)))
	e.times.steps = e.opts.predictSteps(m, e.fleet.sources())
	if f := e.opts.checkWitness(m); f != nil {
		e.fail(f)
		return
	}
	if text := destinationWarning(m); text != "" {
		e.emit(migration.Event{Kind: migration.Warning, Text: text})
	}
	e.warnUnknown()
	e.dialLanes(int(m.Lanes))
}

// handleAck takes an ACK: it releases chunks, moves the windows, and measures.
func (e *engine) handleAck(m *wire.Ack) {
	if *m.About() != e.opts.Attempt || len(m.Devices) != len(e.devices) || e.predecessor.inDoubt {
		return
	}
	for i, ack := range m.Devices {
		if err := e.pipe.queue.ack(i, ack.Seq); err != nil {
			e.fail(&transport.Fault{Code: transport.CodeProtocol, Err: err})
			return
		}
		e.pipe.queue.grant(i, ack.Window)
		d := e.devices[i]
		d.applied = max(d.applied, min(ack.Applied, d.bytesRead()))
		d.loadRate.observe(d.applied, min(max(0, time.Duration(ack.LoadNS)), time.Since(e.times.start)))
		if !e.times.paused.IsZero() && e.times.firstApplied.IsZero() && d.applied > d.atPause.read {
			e.times.firstApplied = time.Now()
		}
	}
	now, held := time.Since(e.times.start), time.Duration(max(m.HeldNS, 0))
	sound := e.conn.hearing.noteEcho(now, min(now, time.Duration(m.Echo)), held)
	if sound && m.Echo > 0 && !e.pipe.isBehindPadding(m.Echo) {
		e.pipe.meter.noteRTT(time.Now(), now-time.Duration(m.Echo)-held)
	}
	e.pipe.notePadding(m.Padding)
	e.measure()
	e.checkWarmup()
	e.stepWatch()
	e.checkDataLanes(m)
}

// welcomeLimit is how long WELCOME may take. The destination probes the witness before it sends
// WELCOME.
func (o *Options) welcomeLimit() time.Duration {
	if o.Witness != nil {
		return o.ConnectFor + witness.Timeout
	}
	return o.ConnectFor
}

// stepHandoff steps the hand-off and carries out its actions.
func (e *engine) stepHandoff(ev handoff.SourceEvent) {
	failpoint.Reach("source", "on", ev)
	next, actions := e.handoff.Step(ev)
	e.handoff = next
	e.apply(actions)
}

// apply carries out the actions of the hand-off, in order.
func (e *engine) apply(actions []handoff.SourceAction) {
	for _, a := range actions {
		failpoint.Reach("source", "do", a)
		switch a := a.(type) {
		case handoff.Append:
			a.Entry.PeerID, a.Entry.Why = e.report.Peer, e.recordReason()
			if err := e.opts.Journal.Append(a.Entry); err != nil {
				e.noteUnrecorded(a.Entry.Record, err)
				return
			}
			if a.Entry.Record == handoff.Commit {
				e.onCommit()
			}
		case handoff.SendHello:
			e.times.hello = time.Now()
			e.send(e.offer)
		case handoff.Send:
			e.send(a.Message)
		case handoff.AskApproval:
			e.askApproval()
		case handoff.AskWitness:
			e.askWitness()
		case handoff.Halt:
			e.haltDevices()
		case handoff.Resume:
			e.resumeDevices(a.Reverted)
		case handoff.Release:
			e.mustRelease = true
		case handoff.Finish:
			e.report.Outcome, e.done = a.Outcome, true
		}
		failpoint.Reach("source", "did", a)
	}
}

// recordReason is what a record says for people: the bytes read so far, and the cause of the end.
func (e *engine) recordReason() handoff.Why {
	w := handoff.Why{Bytes: e.predecessor.bytes}
	for _, d := range e.devices {
		w.Bytes += d.bytesRead()
	}
	if e.fault != nil {
		w.Code, w.Text = e.fault.Code, textOf(e.fault)
	}
	return w
}

// send sends a message, best effort: the reader of the control lane notices a lane that fails.
func (e *engine) send(m wire.Message) {
	switch m := m.(type) {
	case *wire.Fin:
		m.TotalNS, m.DowntimeNS = e.times.total(e.pipe.firstByte()).Nanoseconds(), e.times.downtime().Nanoseconds()
		for _, s := range e.times.stages() {
			m.Stages = append(m.Stages, wire.FinStage{Name: s.Name, NS: s.Took.Nanoseconds()})
		}
	case *wire.Abort: // the hand-off itself may have found the cause
		e.noteCause(&transport.Fault{Code: m.Code, Err: errors.New(m.Text)})
	}
	e.conn.send(m)
}

func (e *engine) halted(ev halted) {
	e.report.Warnings = append(e.report.Warnings, ev.again...)
	if ev.err != nil {
		e.report.Warnings = append(e.report.Warnings, resumeFailure(ev.err))
	}
	e.stepHandoff(handoff.Halted{Failed: ev.err != nil})
}

func (e *engine) resumed(ev resumed) {
	e.times.resumed = ev.at
	e.report.Warnings = append(e.report.Warnings, ev.again...)
	if ev.err != nil {
		e.report.Warnings = append(e.report.Warnings, resumeFailure(ev.err))
	}
	if ev.guest != nil {
		e.report.GuestUnheard = true
		e.emit(migration.Event{Kind: migration.Warning, Text: unheardText(ev.guest)})
	}
	e.stepHandoff(handoff.Resumed{How: ev.how})
}

// resumeFailure is the warning about devices that do not run again.
func resumeFailure(err error) string { return fmt.Sprintf("resume the devices: %v", err) }

// unheardText is the warning about a guest whose owner did not confirm that it runs.
func unheardText(err error) string {
	return fmt.Sprintf("resume the guest: %v: the devices run, and it is not known whether the guest does", err)
}

// releaseDevices ends the source's sessions. The guest runs at the destination by now, so a failure
// is a warning.
func (e *engine) releaseDevices() {
	if err := e.fleet.release(); err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("leave STOP_COPY: %v", err))
	}
}

// sendEstimate sends the destination the estimates of all devices.
func (e *engine) sendEstimate() {
	m := &wire.Estimate{Attempt: e.opts.Attempt, Stopped: !e.times.stopped.IsZero(), Stamp: max(1, time.Since(e.times.start).Nanoseconds())}
	for i := range e.devices {
		pending, size := e.plan.LastEstimate(i)
		d := wire.DeviceEstimate{Initial: pending.Initial, Dirty: pending.Dirty, StopCopy: size}
		d.Known = d.Initial+d.Dirty+d.StopCopy > 0
		m.Devices = append(m.Devices, d)
	}
	e.conn.send(m)
}

// warnUnknown warns of steps that the prediction leaves out.
func (e *engine) warnUnknown() {
	if names := e.times.steps.NameUnknown(); len(names) > 0 {
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("the downtime is predicted without %s: its time is unknown before the first run", strings.Join(names, ", "))})
	}
}

func (e *engine) witnessed(ev witnessed) {
	switch {
	case ev.err != nil && !e.watch.warnedWitness:
		e.watch.warnedWitness = true
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("the witness does not answer, and is asked again: %v", ev.err)})
	case ev.winner == handoff.DestSide && e.handoff.InDoubt():
		e.emit(migration.Event{Kind: migration.Warning, Text: "the witness has given the devices to the destination, which may run them: only the destination can answer"})
	case ev.winner == handoff.SourceSide && e.handoff.InDoubt():
		e.noteCause(&transport.Fault{Code: transport.CodeTimeout, Err: errors.New("the destination has not answered COMMIT, and the witness gave the devices back")})
	}
	e.stepHandoff(handoff.Witnessed{Winner: ev.winner})
}

// noteOverruled notes, for the report, a state that only people can resolve: a person decided at
// the destination, or the copy that the destination accepted is lost.
func (e *engine) noteOverruled(m *wire.Status) {
	if !e.handoff.InDoubt() || m.Journal != e.handoff.PeerJournal {
		return
	}
	switch m.Record {
	case handoff.Ready.String(), handoff.Accept.String():
		if m.Text != "" {
			e.noteRefusal(&transport.Fault{Code: transport.CodeBusy, Remote: true, Err: fmt.Errorf("the destination's record is %s: %s", m.Record, transport.PeerText(m.Text))})
		}
	case handoff.Forced.String():
		e.noteCause(&transport.Fault{Code: transport.CodeDecided, Remote: true, Err: fmt.Errorf("the destination's record is %v of attempt %d (%s), this side's is %v of attempt %d",
			handoff.Forced, m.MaxEpoch, transport.PeerText(m.Text), e.handoff.Record, e.handoff.Attempt.Epoch)})
	case handoff.Lost.String():
		e.noteCause(&transport.Fault{Code: transport.CodeLost, Remote: true, Err: fmt.Errorf("the destination's record is %v of attempt %d: its devices no longer hold the copy that it accepted and may have run; this side's record is %v",
			handoff.Lost, m.MaxEpoch, e.handoff.Record)})
	}
}
