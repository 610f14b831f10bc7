package writer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// answerTimeout bounds the conversation with a source that is answered from a journal.
const answerTimeout = 5 * time.Second

// answerResume sends a source the journal's answer about its attempt, in which this process has no
// part: its devices are others, or hold nothing of the attempt. removeSessions removes what
// the devices persist of it.
func answerResume(ctx context.Context, ev admitted, m *wire.Resume, journals handoff.Journals, alarm func(migration.Event), removeSessions func()) {
	lane := ev.lane
	lane.SetDeadline(time.Now().Add(answerTimeout))
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(aLongTimeAgo) })
	defer stop()
	j, err := journals(m.Mig, true)
	if c, ok := j.(io.Closer); ok {
		defer c.Close()
	}
	if err == nil {
		checkBothMayRun(j, m.Attempt, lane, alarm)
		err = checkResume(j, m, lane)
	}
	code := transport.CodeBusy
	if errors.Is(err, fs.ErrNotExist) {
		code, err = transport.CodeUnknown, errors.New("this destination knows nothing of the migration: it never took part, or has lost its journal")
	}
	if err != nil { // without a journal: a source in doubt does not believe it
		reply(ev.control, &wire.Declined{Attempt: m.Attempt, Code: code, Text: err.Error()})
		return
	}
	if last := j.Last(); last.Record == handoff.Ready || last.Record == handoff.Accept {
		reply(ev.control, describeUninvolved(m, last, j.ID()))
		return
	}
	a := &answerer{journal: j, control: ev.control, removeSessions: removeSessions}
	a.converse(m)
	wire.HangUp(lane, func() {})
}

// describeUninvolved is the answer about a copy that may be in devices which this process does not
// have: the record, and no more.
func describeUninvolved(m *wire.Resume, last handoff.Entry, id migration.JournalID) wire.Message {
	if m.Epoch < last.Attempt.Epoch {
		return &wire.Declined{Attempt: m.Attempt, Journal: id, Code: transport.CodeProtocol, Text: "a newer attempt has been opened"}
	}
	return &wire.Status{Attempt: m.Attempt, Journal: id, Record: last.Record.String(), MaxEpoch: last.Attempt.Epoch, Digest: last.Digest,
		Text: "the process that answers does not have its devices: continue the migration there, with mig-recv and its devices"}
}

// checkResume compares the question with the journal.
func checkResume(j handoff.Journal, m *wire.Resume, lane transport.Lane) error {
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
	handoff        handoff.Dest
	journal        handoff.Journal
	control        *wire.Control // nil if no source asks
	removeSessions func()
}

func (a *answerer) converse(m *wire.Resume) {
	next, actions := handoff.RestartDest(a.journal.Last(), handoff.Nothing)
	a.handoff = next
	err := a.apply(actions)
	var message wire.Message = &wire.Query{Attempt: m.Attempt}
	if m.Epoch < a.handoff.MaxEpoch {
		message = &wire.Cancel{Attempt: m.Attempt} // which is answered for every older attempt
	}
	if err == nil {
		err = errors.Join(a.stepHandoff(handoff.Received{Message: message}), a.stepHandoff(handoff.Reached{}))
	}
	for err == nil {
		if message, err = a.control.Receive(); err == nil {
			err = a.stepHandoff(handoff.Received{Message: message})
		}
	}
}

func (a *answerer) stepHandoff(ev handoff.DestEvent) error {
	next, actions := a.handoff.Step(ev)
	a.handoff = next
	return a.apply(actions)
}

// apply records and sends. There are no devices to start; a reset removes what the devices persist.
func (a *answerer) apply(actions []handoff.DestAction) error {
	for _, action := range actions {
		switch action := action.(type) {
		case handoff.Append:
			last := a.journal.Last()
			action.Entry.PeerID, action.Entry.Why.Bytes = last.PeerID, last.Why.Bytes
			if r := action.Entry.Record; r == handoff.Aborted || r == handoff.Lost {
				action.Entry.Why.Code, action.Entry.Why.Text = transport.CodeInternal, "the destination was started again, and its devices no longer hold the copy"
			}
			if err := a.journal.Append(action.Entry); err != nil {
				return err // nothing was promised yet
			}
		case handoff.Send:
			if a.control == nil {
				continue
			}
			if err := a.control.Send(a.addReason(action.Message)); err != nil {
				return err
			}
		case handoff.Reset:
			a.removeSessions()
		case handoff.SendWelcome, handoff.AskWitness, handoff.Start, handoff.Finish: // there is no attempt here
		}
	}
	return nil
}

// answerQuery sends a source the journal's record of its migration, and changes nothing.
func answerQuery(ctx context.Context, ev admitted, m *wire.Query, journals handoff.Journals, alarm func(migration.Event)) {
	stop := context.AfterFunc(ctx, func() { ev.lane.SetDeadline(aLongTimeAgo) })
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
		checkBothMayRun(j, m.Attempt, ev.lane, alarm)
		reply(ev.control, statusOf(m.Attempt, last, transport.IsPeer(ev.lane, last.PeerID)))
	}
}

// statusOf is the answer to the attempt's peer. Any other peer gets DECLINED.
func statusOf(a migration.Attempt, last handoff.Entry, peer bool) wire.Message {
	if !peer {
		return &wire.Declined{Attempt: a, Code: transport.CodeAuth, Text: handoff.ErrOtherPeer.Error()}
	}
	return &wire.Status{Attempt: a, Journal: last.Journal, Record: last.Record.String(), MaxEpoch: last.Attempt.Epoch, Digest: last.Digest}
}

// addReason gives DECLINED the recorded reason. An earlier DECLINED may have been lost.
func (a *answerer) addReason(m wire.Message) wire.Message {
	d, ok := m.(*wire.Declined)
	if last := a.journal.Last(); ok && last.Record == handoff.Aborted && last.Attempt == d.Attempt && last.Why.Code != 0 {
		d.Code, d.Text = last.Why.Code, last.Why.Text
	}
	return m
}
