package writer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// restart continues with the migration of Options.Recover, if the devices hold what its
// journal says that they do.
func (e *engine) restart() {
	if e.opts.Recover == (migration.ID{}) {
		return
	}
	j, err := e.opts.Journals(e.opts.Recover, true)
	if err != nil {
		e.fail(&transport.Fault{Code: transport.CodeBusy, Err: fmt.Errorf("open the journal: %w", err)}, handoff.Interrupt{})
		return
	}
	last := j.Last()
	if e.fenced(j) {
		e.tell(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("migration %v, attempt %d, was accepted, and this host was restarted since: somebody may have decided at its source meanwhile, so that it is started when that asks, or when `resolve` says so", last.Attempt.Mig, last.Attempt.Epoch)})
		e.waits = last
		e.journal = j
		e.closeJournal()
		return
	}
	resumed, err := e.resumeCopy(j)
	if resumed {
		return
	}
	e.journal = j
	if err == nil && e.fleet.resumable() && (last.Record == handoff.Ready || last.Record == handoff.Accept) {
		err = errors.New("nothing of it is there: it may be at another path, or what it is on is not mounted")
	}
	if err != nil {
		e.hand(last, err)
		return
	}
	holding := e.fleet.holding(last.Record)
	if handoff.Rebooted(j) {
		holding = handoff.Nothing
	}
	if holding == handoff.Nothing {
		e.tell(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("migration %v, attempt %d, is recorded as %v, and the devices hold nothing that could be gone on with: its source is told so when it asks", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
		e.abandonCopy(last)
		e.closeJournal() // which until now has kept other processes from the devices
		return
	}
	e.fleet.adopt(last.Record)
	e.continueFrom(j, holding)
}

// continueFrom continues with what is recorded and what the devices hold.
func (e *engine) continueFrom(j handoff.Journal, holding handoff.Holding) {
	last := j.Last()
	e.journal = j
	e.out.Attempt, e.out.Peer, e.bytes, e.conn.lostAt = last.Attempt, last.PeerID, last.Why.Bytes, time.Now()
	e.tell(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("going on with migration %v, attempt %d, which is recorded as %v", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
	next, actions := handoff.RestartDest(last, holding)
	e.owner = next
	e.do(actions)
}

// holding says what the devices hold of an attempt with such a record. Only of those
// that somebody else has kept open can it be more than nothing: one that was just
// opened is RUNNING, and holds nothing (VFIO's state on first open).
func (f *fleet) holding(r handoff.Record) handoff.Holding {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := func(states ...vfio.State) bool {
		return !slices.ContainsFunc(f.devices, func(d *device) bool {
			now, err := d.Device.State()
			return !d.Kept || err != nil || !slices.Contains(states, now)
		})
	}
	switch r {
	case handoff.Ready:
		if all(vfio.Stop) {
			return handoff.Whole
		}
	case handoff.Accept, handoff.Running, handoff.Forced:
		if all(vfio.Running) {
			return handoff.Executing
		}
		if r != handoff.Running && all(vfio.Stop, vfio.RunningP2P, vfio.Running) {
			return handoff.Whole
		}
	}
	return handoff.Nothing
}

// abandonCopy records what has become of a migration whose copy is not in its devices.
// A part of one, or one that was never accepted, is nobody's: neither its source nor
// another one may ever come. Of one that was accepted people have to look at devices
// that somebody has kept, before anything else is done with them.
func (e *engine) abandonCopy(last handoff.Entry) {
	var err error
	switch last.Record {
	case handoff.Open, handoff.Ready:
		_, err = e.fleet.discard()
	case handoff.Accept:
	case handoff.Forced, handoff.Lost:
		e.leaveToPeople(last)
		return
	default:
		return
	}
	if err == nil {
		_, actions := handoff.RestartDest(last, handoff.Nothing)
		a := &answerer{journal: e.journal, forget: func() { err = e.fleet.removeSessions(last.Attempt.Mig) }}
		failed := a.do(actions)
		err = errors.Join(failed, err)
	}
	if err != nil {
		e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("end attempt %d: %v", last.Attempt.Epoch, err))
	}
	if last.Record == handoff.Accept {
		e.leaveToPeople(last)
	}
}

// leaveToPeople takes no other migration into devices that somebody keeps, and that an
// accepted one may still be about.
func (e *engine) leaveToPeople(last handoff.Entry) {
	if slices.ContainsFunc(e.fleet.devices, func(d *device) bool { return !d.Kept }) {
		return
	}
	e.hand(last, errors.New("the devices do not hold it"))
}

// fenced reports whether devices may hold what was accepted before the host was
// restarted, or was killed by somebody who then had the source go on: the devices that
// know no better are gone by then (LOST), and those that have kept it wait for the source,
// which asks only as long as nobody has decided there.
func (e *engine) fenced(j handoff.Journal) bool {
	return j.Last().Record == handoff.Accept && handoff.Rebooted(j) && e.fleet.resumable()
}

// ErrCannotContinue says that devices may hold what is recorded of a migration, and that this
// process cannot continue with it: nothing was changed.
var ErrCannotContinue = errors.New("this process cannot continue with it")

func cannotResume(last handoff.Entry, why error) error {
	return fmt.Errorf("migration %v, attempt %d, is recorded as %v, and %w: %w", last.Attempt.Mig, last.Attempt.Epoch, last.Record, ErrCannotContinue, why)
}

// hand hands a migration to people, who have to look at the devices before anything else
// is loaded into them.
func (e *engine) hand(last handoff.Entry, why error) {
	e.out.Attempt, e.out.Peer, e.out.Outcome, e.done = last.Attempt, last.PeerID, migration.InDoubt, true
	e.keep(&transport.Fault{Code: transport.CodeBusy, Err: cannotResume(last, why)})
}

// discard resets the devices that hold a part, and reports whether there were any.
func (f *fleet) discard() (found bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	parts := make([]bool, len(f.devices))
	err = f.each(len(f.devices), func(i int) (err error) {
		d := f.devices[i]
		stale, unclear := d.stale()
		parts[i] = stale && unclear == nil && d.Kept // prepare reports what is wrong with others
		if parts[i] {
			err = d.Device.Reset()
		}
		if err != nil {
			err = d.fault(transport.CodeDevice, err)
		}
		return err
	})
	return slices.Contains(parts, true), err
}

// adopt takes devices over as a process before this one has left them. Behind ACCEPT any
// of them may have run, those too that stand now: nobody knows how far a start came.
func (f *fleet) adopt(r handoff.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adopted = true
	for _, d := range f.devices {
		d.touched, d.ran = true, r != handoff.Ready
	}
}

// answerTimeout bounds the conversation with a source that is answered from a journal.
const answerTimeout = 5 * time.Second

// answer tells a source what the journal says of its attempt, in which this process
// has no part: the devices that it is about are not those at hand, or hold nothing of
// it any more. What they have kept of it, forget removes.
func answer(ctx context.Context, ev admitted, m *wire.Resume, journals handoff.Journals, alarm func(migration.Event), forget func()) {
	lane := ev.lane
	lane.SetDeadline(time.Now().Add(answerTimeout))
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	j, err := journals(m.Mig, true)
	if c, ok := j.(io.Closer); ok {
		defer c.Close()
	}
	if err == nil {
		meet(j, m.Attempt, lane, alarm)
		err = asks(j, m, lane)
	}
	code := transport.CodeBusy
	if errors.Is(err, fs.ErrNotExist) {
		code, err = transport.CodeUnknown, errors.New("this destination knows nothing of the migration: it never heard of it, or has lost its journal")
	}
	if err != nil { // in no journal's name: a source in doubt does not believe it
		reply(ev.control, &wire.Declined{Attempt: m.Attempt, Code: code, Text: err.Error()})
		return
	}
	if last := j.Last(); last.Record == handoff.Ready || last.Record == handoff.Accept {
		reply(ev.control, uninvolved(m, last, j.ID()))
		return
	}
	a := &answerer{journal: j, control: ev.control, forget: forget}
	a.converse(m)
	wire.HangUp(lane, func() {})
}

// uninvolved is the answer about a copy that may be in devices which this process was not
// told of: what is recorded, and no more.
func uninvolved(m *wire.Resume, last handoff.Entry, id migration.JournalID) wire.Message {
	if m.Epoch < last.Attempt.Epoch {
		return &wire.Declined{Attempt: m.Attempt, Journal: id, Code: transport.CodeProtocol, Text: "a newer attempt has been opened"}
	}
	return &wire.Status{Attempt: m.Attempt, Journal: id, Record: last.Record.String(), MaxEpoch: last.Attempt.Epoch, Digest: last.Digest,
		Text: "who answers has no part in it: have mig-recv go on with it there, with its devices"}
}

// asks holds the question against the journal.
func asks(j handoff.Journal, m *wire.Resume, lane transport.Lane) error {
	last := j.Last()
	switch {
	case m.Peer != j.ID():
		return errors.New("the attempt was made with another journal of this destination")
	case !transport.IsPeer(lane, last.PeerID):
		return handoff.ErrOtherPeer
	case m.Epoch > last.Attempt.Epoch:
		return errors.New("no such attempt was ever made here")
	}
	return nil
}

// answerer is the hand-off without devices.
type answerer struct {
	owner   handoff.Dest
	journal handoff.Journal
	control *wire.Control // nil if nobody asks
	forget  func()
}

func (a *answerer) converse(m *wire.Resume) {
	next, actions := handoff.RestartDest(a.journal.Last(), handoff.Nothing)
	a.owner = next
	err := a.do(actions)
	var said wire.Message = &wire.Query{Attempt: m.Attempt}
	if m.Epoch < a.owner.MaxEpoch {
		said = &wire.Cancel{Attempt: m.Attempt} // which is answered for every older attempt
	}
	if err == nil {
		err = errors.Join(a.own(handoff.Received{Message: said}), a.own(handoff.Reached{}))
	}
	for err == nil {
		if said, err = a.control.Receive(); err == nil {
			err = a.own(handoff.Received{Message: said})
		}
	}
}

func (a *answerer) own(ev handoff.DestEvent) error {
	next, actions := a.owner.Step(ev)
	a.owner = next
	return a.do(actions)
}

// do records and tells. Nothing runs that could be started; what is to be reset is what
// was kept.
func (a *answerer) do(actions []handoff.DestAction) error {
	for _, action := range actions {
		switch action := action.(type) {
		case handoff.Append:
			last := a.journal.Last()
			action.Entry.PeerID, action.Entry.Why.Bytes = last.PeerID, last.Why.Bytes
			if r := action.Entry.Record; r == handoff.Aborted || r == handoff.Lost {
				action.Entry.Why.Code, action.Entry.Why.Text = transport.CodeInternal, "the destination was started again, and its devices do not hold it any more"
			}
			if err := a.journal.Append(action.Entry); err != nil {
				return err // nothing was promised yet
			}
		case handoff.Send:
			if a.control == nil {
				continue
			}
			if err := a.control.Send(a.reasoned(action.Message)); err != nil {
				return err
			}
		case handoff.Reset:
			a.forget()
		case handoff.SendWelcome, handoff.AskWitness, handoff.Start, handoff.Finish: // there is no attempt here
		}
	}
	return nil
}

// inform tells a source what the journal says of its migration, and changes nothing of
// that.
func inform(ctx context.Context, ev admitted, m *wire.Query, journals handoff.Journals, alarm func(migration.Event)) {
	stop := context.AfterFunc(ctx, func() { ev.lane.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	j, err := journals(m.Mig, true)
	if c, ok := j.(io.Closer); ok {
		defer c.Close()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		reply(ev.control, &wire.Status{Attempt: m.Attempt, Record: handoff.None.String()})
	case err != nil:
		reply(ev.control, &wire.Declined{Attempt: m.Attempt, Code: transport.CodeBusy, Text: err.Error()})
	default:
		last := j.Last()
		last.Journal = j.ID()
		meet(j, m.Attempt, ev.lane, alarm)
		reply(ev.control, statusOf(m.Attempt, last, transport.IsPeer(ev.lane, last.PeerID)))
	}
}

// statusOf answers who is the attempt's peer, and nobody else.
func statusOf(a migration.Attempt, last handoff.Entry, peer bool) wire.Message {
	if !peer {
		return &wire.Declined{Attempt: a, Code: transport.CodeAuth, Text: handoff.ErrOtherPeer.Error()}
	}
	return &wire.Status{Attempt: a, Journal: last.Journal, Record: last.Record.String(), MaxEpoch: last.Attempt.Epoch, Digest: last.Digest}
}

// reasoned gives DECLINED the reason that is recorded. It may have been said before, to
// a source that has not heard it.
func (a *answerer) reasoned(m wire.Message) wire.Message {
	d, ok := m.(*wire.Declined)
	if last := a.journal.Last(); ok && last.Record == handoff.Aborted && last.Attempt == d.Attempt && last.Why.Code != 0 {
		d.Code, d.Text = last.Why.Code, last.Why.Text
	}
	return m
}
