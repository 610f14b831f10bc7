package reader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// recoverDevices ends an attempt that an earlier process left unfinished. It returns the devices
// that do not run to RUNNING, and records that. The source owns them as long as COMMIT is not
// recorded, and after a person has decided so (FORCED).
func recoverDevices(o Options, sources []Source) (out migration.Report, err error) {
	last := o.Journal.Last()
	if !last.Unfinished() && last.Record != handoff.Forced {
		return out, nil
	}
	b := &recovery{opts: o, sole: last.Unfinished(), fleet: newFleet(newDevices(sources)), asking: tasks.NewGroup(context.Background())}
	defer b.asking.Stop()
	side, actions := handoff.RestartSource(last)
	for ev := b.apply(actions); ev != nil; ev = b.apply(actions) {
		side, actions = side.Step(ev)
	}
	if b.err == nil {
		return out, nil
	}
	out = migration.Report{Outcome: b.outcome, Attempt: last.Attempt, CopyThere: copyThere(side, false), GuestUnheard: b.unheard}
	return out, b.err
}

// recovery carries out the actions of the hand-off after a restart, without a connection.
type recovery struct {
	opts    Options
	sole    bool // the destination's copy may be the only one that works
	fleet   *fleet
	asking  *tasks.Group
	outcome migration.Outcome
	unheard bool  // the guest's owner did not answer
	err     error // the first cause
}

// apply carries out the actions, and returns the event that the last of them leads to, nil for
// none.
func (b *recovery) apply(actions []handoff.SourceAction) (ev handoff.SourceEvent) {
	for _, a := range actions {
		switch a := a.(type) {
		case handoff.Append:
			a.Entry.PeerID = b.opts.Journal.Last().PeerID
			if b.err != nil {
				a.Entry.Why = handoff.Why{Code: transport.CodeDevice, Text: b.err.Error()}
			}
			if err := b.opts.Journal.Append(a.Entry); err != nil {
				b.noteCause(&transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("journal %v: %w", a.Entry.Record, err)})
				return handoff.Unrecorded{}
			}
		case handoff.Halt:
			again, err := b.fleet.halt()
			b.report(again, err)
			ev = handoff.Halted{Failed: err != nil}
		case handoff.Resume:
			ev = handoff.Resumed{How: b.resume()}
		case handoff.Finish:
			b.outcome = a.Outcome
		case handoff.Send, handoff.SendHello, handoff.AskApproval, handoff.AskWitness, handoff.Release: // no peer is connected, and nothing is given away
		}
	}
	return ev
}

// resume returns the devices to RUNNING, and asks the owner to resume the guest, which an earlier
// process may have paused.
func (b *recovery) resume() handoff.Return {
	again, err := b.fleet.resume(b.sole)
	b.report(again, err)
	if err != nil || b.opts.ResumeGuest == nil {
		return b.fleet.classifyReturn(err)
	}
	if err := askResume(context.Background(), b.asking, b.opts.ResumeGuest); err != nil {
		b.unheard = true
		b.noteCause(&transport.Fault{Code: transport.CodeDevice, Err: errors.New(unheardText(err))})
		return handoff.Unheard
	}
	return handoff.Back
}

func (b *recovery) report(again []string, err error) {
	for _, text := range again {
		b.opts.emit(migration.Event{Kind: migration.Warning, Text: text})
	}
	if err != nil {
		b.noteCause(b.fleet.faultOf(fmt.Errorf("resume the devices of attempt %d: %w", b.opts.Journal.Last().Attempt.Epoch, err)))
	}
}

func (b *recovery) noteCause(f *transport.Fault) {
	if b.err == nil {
		b.err = f
	}
}

// releaseSessions ends the sessions of devices for which DONE is recorded. The process that
// recorded it ended before it could.
func releaseSessions(sources []Source) (warnings []string) {
	for _, s := range sources {
		if now, err := s.Device.State(); err != nil || now != vfio.StopCopy {
			continue
		}
		if _, err := vfio.Enter(s.Device, vfio.Stop, false); err != nil {
			warnings = append(warnings, fmt.Sprintf("device %s: leave STOP_COPY: %v", s.Name, err))
		}
	}
	return warnings
}

// ErrOnlyCopy says that the destination has a complete copy of an earlier attempt, and that the
// devices at the source hold nothing of it: they were reset, with the process or the host that made
// the copy.
var ErrOnlyCopy = errors.New("the destination has a complete copy, and the devices here were reset since: it may be the only one")

// ErrUndecidedCopy is like ErrOnlyCopy for an attempt whose way back has failed, or is not known to
// have ended well. No new attempt ends such a copy: a person decides.
var ErrUndecidedCopy = errors.New("the way back failed or did not end, and the destination has a complete copy, which may be the only one")

// askTimeout bounds the question about stopped devices. The source owns them with any answer,
// unless a person has decided otherwise.
const askTimeout = time.Second

// guardOnlyCopy asks the destination about an attempt that was left open. It refuses a new attempt
// in two cases: the devices no longer hold the state of the open one, so a new attempt would end
// what may be the only copy; or a person has decided that the devices run at the destination.
func guardOnlyCopy(ctx context.Context, dialer transport.Dialer, sources []Source, o Options) error {
	last := o.Journal.Last()
	if last.Record != handoff.Forced && (!last.Unfinished() || o.StartOver && last.Record == handoff.Open) {
		return nil
	}
	empty, limit := last.Unfinished() && mayBeReset(last, sources, o), askTimeout // with FORCED a person has decided that no answer is needed
	if empty {
		limit = o.ConnectFor
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	status, err := query(ctx, dialer, last.Attempt, limit)
	switch {
	case err != nil && empty:
		return &transport.Fault{Code: transport.CodeOf(err), Err: fmt.Errorf("ask what became of attempt %d: %w", last.Attempt.Epoch, err)}
	case err != nil:
		return nil
	}
	if f := checkBothMayRun(&o, last.Attempt, status); f != nil {
		if err := recordBothMayRun(o.Journal, f); err != nil {
			f.Err = fmt.Errorf("%w; the journal did not take that: %w", f.Err, err)
		}
		return &undecided{f}
	}
	if last.Record == handoff.Forced || status.MaxEpoch < last.Attempt.Epoch {
		return nil
	}
	switch status.Record {
	case handoff.Ready.String():
		if empty || !allStopped(sources) { // some were reset: all were stopped when they were read to the end
			cause := ErrOnlyCopy
			if last.Record != handoff.Open {
				cause = ErrUndecidedCopy
			}
			return &undecided{&transport.Fault{Code: transport.CodeBusy, Remote: true, Err: fmt.Errorf("attempt %d: %w", last.Attempt.Epoch, cause)}}
		}
	case handoff.Accept.String(), handoff.Running.String(), handoff.Done.String(), handoff.Lost.String(), handoff.Forced.String():
		code := transport.CodeDecided
		if status.Record == handoff.Lost.String() {
			code = transport.CodeLost
		}
		return &undecided{&transport.Fault{Code: code, Remote: true, Err: fmt.Errorf("the destination's record is %s of attempt %d, this side's is %v of attempt %d: a person has decided there",
			transport.PeerText(status.Record), status.MaxEpoch, last.Record, last.Attempt.Epoch)}}
	}
	return nil
}

// mayBeReset reports whether the devices may hold nothing of an attempt that the source has not
// ended. With RESUME_FAILED no device has run since. With OWNER some may have, and only if all run
// is nothing left to recover.
func mayBeReset(last handoff.Entry, sources []Source, o Options) bool {
	return allRunning(sources) || handoff.Rebooted(o.Journal) || last.Record == handoff.ResumeFailed && !allStopped(sources)
}

// nameCopy asks the destination for the journal and the digest that COMMIT must name. The journal
// lacks them if a person decided that the destination's copy is to run, and this source had not
// received READY.
func nameCopy(ctx context.Context, dialer transport.Dialer, o Options) error {
	last := o.Journal.Last()
	if last.PeerJournal != (migration.JournalID{}) {
		return nil
	}
	status, err := askForCopy(ctx, dialer, o, last.Attempt)
	if ctx.Err() != nil {
		return &transport.Fault{Code: transport.CodeCancelled, Err: context.Cause(ctx)}
	}
	if err != nil {
		return &transport.Fault{Code: transport.CodeOf(err), Err: fmt.Errorf("ask for the copy of attempt %d: %w", last.Attempt.Epoch, err)}
	}
	if status.MaxEpoch != last.Attempt.Epoch || status.Record == handoff.Open.String() || status.Record == handoff.None.String() {
		return &transport.Fault{Code: transport.CodeBusy, Remote: true, Err: fmt.Errorf("the destination has no complete copy of attempt %d: its record is %s of attempt %d",
			last.Attempt.Epoch, transport.PeerText(status.Record), status.MaxEpoch)}
	}
	last.PeerJournal, last.Digest = status.Journal, status.Digest
	if err := o.Journal.Append(last); err != nil {
		return &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("journal %v: %w", last.Record, err)}
	}
	return nil
}

// askForCopy asks the destination for its record, again after each ConnectFor without an answer: in
// doubt nothing else helps. DoubtFor bounds it. It warns the user once.
func askForCopy(ctx context.Context, dialer transport.Dialer, o Options, a migration.Attempt) (*wire.Status, error) {
	began := time.Now()
	for warned := false; ; warned = true {
		limit := o.ConnectFor
		if doubt := o.doubtLimit(); doubt > 0 {
			limit = min(limit, doubt-time.Since(began))
		}
		each, cancel := context.WithTimeout(ctx, limit)
		status, err := query(each, dialer, a, limit)
		cancel()
		if !wire.IsLaneEnd(err) && !errors.Is(err, transport.ErrUnreachable) {
			return status, err
		}
		if doubt := o.doubtLimit(); doubt > 0 && time.Since(began) >= doubt {
			return nil, fmt.Errorf("no answer for %v: %w", migration.RoundTime(time.Since(began)), err)
		}
		if !warned {
			o.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("in doubt: asking the destination for its copy of attempt %d until it answers: %v", a.Epoch, err)})
		}
		if sleep(ctx, lanePause) != nil {
			return nil, err
		}
	}
}

// undecided is a fault that only people can resolve, by a look at both sides.
type undecided struct{ *transport.Fault }

func (u *undecided) Unwrap() error { return u.Fault }

// guardOutcome is the outcome of an attempt that guardOnlyCopy refused.
func guardOutcome(err error) migration.Outcome {
	if _, ok := errors.AsType[*undecided](err); ok {
		return migration.InDoubt
	}
	return migration.Aborted
}

// query asks the destination for its record of a migration, until it answers or ctx ends. A
// destination that hangs up has not answered.
func query(ctx context.Context, dialer transport.Dialer, a migration.Attempt, limit time.Duration) (*wire.Status, error) {
	for {
		lane, err := reach(ctx, limit, dialer.Dial)
		if err != nil {
			return nil, err
		}
		status, err := queryOver(ctx, lane, a)
		if !errors.Is(err, transport.ErrPeerGone) || sleep(ctx, lanePause) != nil {
			return status, err
		}
	}
}

// queryOver asks over a lane, and closes it.
func queryOver(ctx context.Context, lane transport.Lane, a migration.Attempt) (*wire.Status, error) {
	defer lane.Close()
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(aLongTimeAgo) })
	defer stop()
	control := wire.NewControl(lane)
	err := wire.WritePreamble(lane, wire.Preamble{Kind: wire.LaneControl, Mig: a.Mig, Epoch: a.Epoch})
	if err == nil {
		err = control.Send(&wire.Query{Attempt: a})
	}
	if err != nil {
		return nil, err
	}
	m, err := control.Receive()
	switch m := m.(type) {
	case *wire.Status:
		return m, nil
	case *wire.Declined:
		return nil, peerFault(m.Code, m.Device, m.Offset, m.Text)
	case nil:
		return nil, err
	}
	return nil, fmt.Errorf("%w: QUERY is answered by %v", transport.ErrProtocol, m.Type())
}

// continueInDoubt continues a hand-off that an earlier process left at COMMIT. The source asks for
// its devices only if they still hold their state of that time.
func (e *engine) continueInDoubt() {
	e.predecessor.inDoubt = true
	last := e.opts.Journal.Last()
	e.report.Peer, e.conn.peer, e.predecessor.bytes = last.PeerID, last.PeerID, last.Why.Bytes
	e.times.ready = time.Now()
	next, actions := handoff.RestartSource(last)
	e.handoff = next
	e.predecessor.devicesReset = !e.fleet.allStopped() || handoff.Rebooted(e.opts.Journal)
	e.handoff.Empty = e.handoff.Empty || e.predecessor.devicesReset
	e.emit(migration.Event{Kind: migration.Phase, Phase: migration.Commit})
	e.emit(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("continuing migration %v, attempt %d, recorded as %v: asking the destination", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
	e.apply(actions)
	e.redialControl(handoff.ErrInDoubt)
}

// ErrBothMayRun says that both sides may run the devices: the destination accepted them in an
// attempt before the one that this source was FORCED to, or has opened since.
var ErrBothMayRun = errors.New("both sides may run the devices")

// checkBothMayRun compares the destination's record with the source's attempt. A fault names both,
// and the user gets an alarm. It returns nil if at most one side may run.
func checkBothMayRun(o *Options, a migration.Attempt, m *wire.Status) *transport.Fault {
	for _, r := range []handoff.Record{handoff.Accept, handoff.Running, handoff.Done, handoff.Forced} {
		if m.Record != r.String() || !handoff.BothMayRun(a.Epoch, r, m.MaxEpoch) {
			continue
		}
		theirs := fmt.Sprintf("the destination's record is %v of attempt %d", r, m.MaxEpoch)
		o.emit(migration.Event{Kind: migration.Alarm, Attempt: a, Text: fmt.Sprintf("%s; this side is at attempt %d", theirs, a.Epoch)})
		return &transport.Fault{Code: transport.CodeBothMayRun, Remote: true, Err: &bothMayRun{theirs}}
	}
	return nil
}

// recordBothMayRun stores that fault in the journal, beside the present record.
func recordBothMayRun(j handoff.Journal, f *transport.Fault) error {
	last := j.Last()
	if text := textOf(f); last.Why.Text != text {
		last.Why.Text, last.Why.Code = text, f.Code
		return j.Append(last)
	}
	return nil
}

// textOf is the text of a fault for a journal. Its code already says that both may run.
func textOf(f *transport.Fault) string {
	if both, ok := errors.AsType[*bothMayRun](f); ok {
		return both.theirs
	}
	return f.Error()
}

// bothMayRun is an ErrBothMayRun with the destination's record.
type bothMayRun struct{ theirs string }

func (e *bothMayRun) Error() string { return ErrBothMayRun.Error() + ": " + e.theirs }
func (e *bothMayRun) Unwrap() error { return ErrBothMayRun }

// checkJournal asks the journal whether the source owns the devices, before any device is touched.
// The outcome is Pending if it does, and the earlier decision if it does not.
func checkJournal(o Options) (decided migration.Report, err error) {
	err = handoff.MayOpen(o.Journal.Last(), o.Attempt)
	if err == nil {
		return decided, nil
	}
	decided = migration.Report{Outcome: migration.Aborted, Attempt: o.Journal.Last().Attempt, Peer: o.Journal.Last().PeerID}
	if errors.Is(err, handoff.ErrGone) { // the outcome is that of the earlier attempt
		decided.Outcome, decided.Warnings = migration.Committed, []string{err.Error() + ": nothing was sent"}
		return decided, nil
	}
	return decided, &transport.Fault{Code: transport.CodeBusy, Err: err}
}
