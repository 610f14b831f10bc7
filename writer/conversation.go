package writer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// handleMessage handles a message of the source.
func (e *engine) handleMessage(m wire.Message) {
	switch m := m.(type) {
	case *wire.Estimate:
		e.handleEstimate(m)
		return
	case *wire.End:
		e.handleEnd(m)
		return
	case *wire.Commit, *wire.Query:
	case *wire.Abort:
		e.handleAbort(m)
	case *wire.Cancel:
		e.noteCause(&transport.Fault{Code: transport.CodeCancelled, Remote: true, Err: errors.New("cancelled by the source")})
	case *wire.Fin:
		e.times.fin = m
	default:
		e.failProtocol(fmt.Errorf("%w: %v from the source", transport.ErrProtocol, m.Type()))
		return
	}
	e.stepHandoff(handoff.Received{Message: m})
}

// handleAbort takes the source's cause for the end of the attempt. A refusal by a limit or by the
// witness, before the first byte of the streams, ends only the attempt: the next source may come,
// as after a hang-up. A device failure at the source, or a cancel, ends this side too. If the
// witness has not answered this side, the cause is here.
func (e *engine) handleAbort(m *wire.Abort) {
	fault := &transport.Fault{Code: m.Code, Remote: true, Device: transport.PeerText(m.Device), Offset: m.Offset,
		Err: errors.New(transport.PeerText(m.Text))}
	early := (!e.handoff.Engaged() || e.handoff.Receives()) && !e.streamsBegun()
	if early && (m.Code == transport.CodeTimeout || m.Code == transport.CodeNetwork) {
		e.sourceEnded = true
	}
	if early && m.Code == transport.CodeNetwork && e.probe.err != nil {
		fault = &transport.Fault{Code: m.Code, Err: fmt.Errorf("%w: %w", ErrNoWitness, e.probe.err)}
	}
	e.noteCause(fault)
}

// noteCause notes the first cause. Later faults follow from it and explain nothing. A fault during
// the start of the devices counts only if there is no other: the result of the start decides.
func (e *engine) noteCause(f *transport.Fault) {
	switch {
	case e.handoff.Starts():
		e.lateFault = cmp.Or(e.lateFault, f)
	default:
		e.fault = cmp.Or(e.fault, f)
	}
}

// replaceCause makes the failed start the cause. An earlier cause becomes a warning.
func (e *engine) replaceCause(f *transport.Fault) {
	if e.fault != nil {
		e.report.Warnings = append(e.report.Warnings, e.fault.Error())
	}
	e.fault = f
}

// noteUnrecorded notes why the journal did not take a record. That is a cause in every phase, and
// never a mere consequence: the user must learn of a failing disk.
func (e *engine) noteUnrecorded(r handoff.Record, err error) {
	e.unrecorded = cmp.Or(e.unrecorded, &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("journal %v: %w", r, err)})
	e.fault = cmp.Or(e.fault, e.unrecorded)
	e.stepHandoff(handoff.Unrecorded{})
}

// endBy ends the attempt by a fault and the event for the hand-off.
func (e *engine) endBy(f *transport.Fault, ev handoff.DestEvent) {
	e.noteCause(f)
	e.stepHandoff(ev)
}

// fail ends the attempt by a fault of this side.
func (e *engine) fail(f *transport.Fault) { e.endBy(f, failedBy(f)) }

// failedBy is the event for the hand-off.
func failedBy(f *transport.Fault) handoff.Failed {
	return handoff.Failed{Code: f.Code, Device: f.Device, Offset: f.Offset, Text: f.Err.Error()}
}

// failProtocol ends the attempt of a source that broke the protocol.
func (e *engine) failProtocol(err error) {
	fault := &transport.Fault{Code: transport.CodeProtocol, Err: err}
	if e.preparing {
		e.noteCause(fault)
		e.stopPreparing()
		return
	}
	e.fail(fault)
}

// cancel handles the user's cancel. While devices are on their way to RESUMING it waits for them.
func (e *engine) cancel(cause error) {
	e.noteCause(&transport.Fault{Code: transport.CodeCancelled, Err: cause})
	e.times.cancelled = time.Now()
	if e.preparing {
		e.stopPreparing()
		return
	}
	e.stepHandoff(handoff.Interrupt{})
}

// acceptHello compares HELLO with this side, and opens the devices' sessions.
func (e *engine) acceptHello(ev admitted, m *wire.Hello) {
	e.useControl(ev.control)
	e.offer, e.times.hello, e.conn.local = m, time.Now(), wire.Local(ev.lane)
	e.report.Attempt, e.report.Peer = m.Attempt, transport.PeerOf(ev.lane)
	if fault := e.checkOtherCopies(m.Mig); fault != nil {
		e.dismissSource(fault)
		return
	}
	terms, refusal := agree(m, e.fleet.targets(), e.opts)
	fault := e.openJournal(m.Attempt, refusal != nil)
	switch {
	case fault != nil:
		e.dismissSource(fault)
		return
	case e.journal == nil:
		e.dismissSource(refusal)
		return
	case refusal != nil:
		e.sourceEnded = true
		e.refuse(refusal)
		return
	}
	e.emit(migration.Event{Kind: migration.Peer, Peer: e.report.Peer, Text: transport.PeerText(m.Software)})
	e.terms = terms
	e.devices = e.fleet.inOrder(m.Devices) // the only order from here on
	for _, d := range e.devices {
		d.splice = d.offer.Splice && e.conn.local
	}
	e.fleet.session = ""
	if e.persists() {
		e.fleet.session = sessionID(m.Mig)
	}
	e.prepareDevices()
}

func (e *engine) refuse(f *transport.Fault) {
	e.endBy(f, handoff.Refused{Attempt: e.offer.Attempt, Why: failedBy(f)})
}

// stopPreparing ends the attempt when the devices have finished their transition.
func (e *engine) stopPreparing() {
	e.interrupted = true
	e.stopProbe()
}

func (e *engine) prepared(ev prepared) {
	e.preparing, e.times.entered, e.probe = false, ev.took, ev.probe
	if ev.probe.err != nil && !e.interrupted {
		e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("the witness does not answer, and the source is informed: %v", ev.probe.err)})
	}
	if ev.probe.doubts != "" && !e.interrupted {
		e.emit(migration.Event{Kind: migration.Warning, Text: ev.probe.doubts})
	}
	err := ev.err
	if e.interrupted {
		e.refuse(e.fault)
		return
	}
	if err == nil {
		err = e.startStreams()
	}
	if err != nil {
		fault, ok := errors.AsType[*transport.Fault](err)
		if !ok {
			fault = &transport.Fault{Code: transport.CodeInternal, Err: err}
		}
		e.refuse(fault)
		return
	}
	e.times.welcomed = time.Now()
	if slices.ContainsFunc(e.offer.Devices, hasPreCopy) {
		e.emit(migration.Event{Kind: migration.Phase, Phase: migration.PreCopy})
	}
	e.stepHandoff(handoff.Offered{Attempt: e.offer.Attempt, Witness: handoff.RegisterOf(e.offer.Witness)})
}

func (e *engine) buildWelcome() *wire.Welcome {
	m := newWelcome(e.offer, e.terms, e.journal.ID(), &e.opts, e.probe)
	m.JournalNS = handoff.WriteTook(e.journal).Nanoseconds()
	m.EnterNS, m.HeldNS = max(1, e.times.entered.Nanoseconds()), max(1, time.Since(e.times.hello).Nanoseconds())
	for _, d := range e.devices {
		s, _ := d.merge.status()
		m.Windows, m.Splice = append(m.Windows, s.Window), append(m.Splice, d.splice)
	}
	return m
}

func (e *engine) handleEstimate(m *wire.Estimate) {
	if !e.pipe.started() || *m.About() != e.handoff.Attempt || len(m.Devices) != len(e.devices) {
		return
	}
	for i, d := range e.devices {
		if !d.merge.hasEnd() { // END has the exact size
			d.estimate = m.Devices[i]
		}
	}
	e.pipe.acks.noteEstimate(m.Stamp)
	if m.Stopped && e.times.stopped.IsZero() && e.handoff.Receives() {
		e.times.stopped, e.pipe.atStop = time.Now(), e.pipe.currentProgress()
		for _, d := range e.devices {
			d.atStop = d.bytesApplied()
		}
		e.emit(migration.Event{Kind: migration.Phase, Phase: migration.StopCopy})
	}
	e.pipe.credit.divide(e.needs())
}

// needs is what the memory is divided by.
func (e *engine) needs() (needs []share.Need) {
	for _, d := range e.devices {
		needs = append(needs, d.need(!e.times.stopped.IsZero()))
	}
	return needs
}

func (e *engine) handleEnd(m *wire.End) {
	if *m.About() != e.handoff.Attempt || !e.handoff.Receives() {
		return
	}
	if int(m.Device) >= len(e.devices) {
		e.failProtocol(fmt.Errorf("%w: END of device %d of %d", transport.ErrProtocol, m.Device, len(e.devices)))
		return
	}
	d := e.devices[m.Device]
	fresh, err := d.merge.setEnd(m)
	if err != nil {
		e.failProtocol(err)
		return
	}
	if !fresh {
		return
	}
	d.estimate = wire.DeviceEstimate{StopCopy: m.Bytes, Known: true}
	e.pipe.credit.divide(e.needs())
	e.pipe.endsReceived++
	e.checkAllArrived()
}

func (e *engine) laneEnded(ev laneEnded) {
	if !e.handoff.Receives() || !slices.Contains(e.pipe.lanes, ev.receiver) {
		return // a new lane has replaced it
	}
	if ev.lost {
		ev.receiver.lost = true
		return
	}
	if ev.fault != nil {
		e.fail(ev.fault)
		return
	}
	ev.receiver.ended = true
	e.checkAllArrived()
}

// checkAllArrived looks for missing chunks when the source has ended every lane and every stream:
// they will not come.
func (e *engine) checkAllArrived() {
	if e.pipe.endsReceived < len(e.devices) || slices.ContainsFunc(e.pipe.lanes, func(r *receiver) bool { return r == nil || !r.ended }) {
		return
	}
	for _, d := range e.devices {
		if err := d.merge.checkComplete(); err != nil {
			e.fail(&transport.Fault{Code: transport.CodeIncomplete, Device: d.Name, Offset: d.bytesApplied(), Err: err})
			return
		}
	}
}

// loaderEnded counts the devices that hold their whole stream, in STOP. The loader was the last to
// write to its device.
func (e *engine) loaderEnded(ev loaderEnded) {
	if !e.handoff.Receives() {
		return
	}
	if ev.fault != nil {
		e.fail(ev.fault)
		return
	}
	e.devices[ev.device].digest = ev.digest
	e.pipe.loaded++
	if e.pipe.loaded < len(e.devices) {
		return
	}
	e.pipe.loading.Wait()
	e.pipe.atReady = e.pipe.currentProgress()
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Commit})
	digests := make([]migration.StreamDigest, len(e.devices))
	for i, d := range e.devices {
		digests[i] = d.digest
	}
	e.stepHandoff(handoff.Loaded{Digest: wire.SetDigest(digests)})
}

// acceptFailed ends Receive only while no source is there: the source of a migration notices by
// itself which lanes are missing.
func (e *engine) acceptFailed(err error) {
	e.callers.acceptErr = err
	if !e.engaged() {
		e.endBy(&transport.Fault{Code: transport.CodeNetwork, Err: err}, handoff.Interrupt{})
	}
}

func (e *engine) controlLost(ev controlLost) {
	switch {
	case ev.control != e.conn.control: // another lane replaced it, or its source was dismissed
		ev.control.Lane().Close()
	case e.mayReconnect(ev.err):
		e.loseControl(ev.err)
	case e.preparing:
		f := &transport.Fault{Code: transport.CodeOf(ev.err), Err: ev.err}
		e.noteCause(f)
		e.sourceEnded = e.sourceEnded || e.fault == f && f.Code == transport.CodeNetwork
		e.stopPreparing()
	default:
		f := &transport.Fault{Code: transport.CodeOf(ev.err), Err: ev.err}
		if f.Code == transport.CodeCorrupt || f.Code == transport.CodeProtocol {
			e.fail(f) // the source can still receive the cause
		} else if e.handoff.Receives() && len(e.pipe.dialledLanes()) == 0 {
			e.sourceEnded = true
		}
		e.endBy(f, handoff.Unreachable{})
	}
}

func (e *engine) wasReset(err error) {
	if err != nil {
		e.report.Warnings = append(e.report.Warnings, fmt.Sprintf("reset: %v", err))
	}
	e.stepHandoff(handoff.WasReset{Failed: err != nil})
}

// stepHandoff steps the hand-off and carries out its actions.
func (e *engine) stepHandoff(ev handoff.DestEvent) {
	failpoint.Reach("destination", "on", ev)
	next, actions := e.handoff.Step(ev)
	e.handoff = next
	e.apply(actions)
}

// apply carries out the actions of the hand-off, in order.
func (e *engine) apply(actions []handoff.DestAction) {
	for _, a := range actions {
		failpoint.Reach("destination", "do", a)
		switch a := a.(type) {
		case handoff.Append:
			a.Entry.PeerID, a.Entry.Why = e.report.Peer, e.recordReason()
			if err := e.journal.Append(a.Entry); err != nil {
				e.noteUnrecorded(a.Entry.Record, err)
				return
			}
		case handoff.SendWelcome:
			e.conn.send(e.buildWelcome())
		case handoff.Send:
			e.send(a.Message)
		case handoff.AskWitness:
			e.askWitness()
		case handoff.Start:
			e.startDevices()
		case handoff.Reset:
			e.resetDevices()
		case handoff.Finish:
			e.report.Outcome, e.done = a.Outcome, true
			if a.Outcome == migration.Committed {
				e.removeRecords()
			}
		}
		failpoint.Reach("destination", "did", a)
	}
}

// send sends a message, best effort: the reader of the control lane notices a lane that fails.
func (e *engine) send(m wire.Message) {
	if d, ok := m.(*wire.Declined); ok && d.Attempt == e.handoff.Attempt { // the hand-off itself may have found the cause
		e.noteCause(&transport.Fault{Code: d.Code, Device: d.Device, Offset: d.Offset, Err: errors.New(d.Text)})
	}
	if r, ok := m.(*wire.Running); ok {
		r.WitnessNS, r.AcceptNS = e.times.steps.witness.Nanoseconds(), e.times.steps.accept.Nanoseconds()
	}
	e.conn.send(m)
}
