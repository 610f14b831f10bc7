package reader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
)

// takeBack ends an attempt that ended with its process: its devices are taken back,
// where they are not running, and that is recorded. They are this side's as long as
// COMMIT is not recorded.
func takeBack(o Options, sources []Source) error {
	last := o.Journal.Last()
	if last.Record != handoff.Open {
		return nil
	}
	f := &fleet{sources: sources, streams: make([]vfio.Stream, len(sources)), each: parallel}
	if err := f.resume(); err != nil {
		return f.fault(fmt.Errorf("take the devices of attempt %d back: %w", last.Attempt.Epoch, err), func(int) uint64 { return 0 })
	}
	closed := handoff.Entry{Record: handoff.Owner, Attempt: last.Attempt, Journal: o.Journal.ID()}
	if err := o.Journal.Append(closed); err != nil {
		return &transport.Fault{Code: transport.CodeInternal, Err: fmt.Errorf("journal %v: %w", closed.Record, err)}
	}
	return nil
}

// ErrOnlyCopy says that the destination has a complete copy of an earlier attempt, and
// that the devices here hold nothing of that: they were reset with the process or the
// host that made it.
var ErrOnlyCopy = errors.New("the destination has a complete copy, and the devices here were reset since it was made: it may be the only one")

// spareCopy asks the destination whether it has a complete copy of an attempt that was
// left open, if the devices do not look like that attempt's any more. The next attempt
// would end that copy.
func spareCopy(ctx context.Context, dialer transport.Dialer, sources []Source, o Options) error {
	last := o.Journal.Last()
	if last.Record != handoff.Open || o.Anew || !running(sources) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, transport.WelcomeTimeout)
	defer cancel()
	status, err := query(ctx, dialer, last.Attempt)
	switch {
	case err != nil:
		return &transport.Fault{Code: transport.CodeOf(err), Err: fmt.Errorf("ask what became of attempt %d: %w", last.Attempt.Epoch, err)}
	case status.Record == handoff.Ready.String() && status.MaxEpoch == last.Attempt.Epoch:
		return &transport.Fault{Code: transport.CodeBusy, Remote: true, Err: fmt.Errorf("attempt %d: %w", last.Attempt.Epoch, ErrOnlyCopy)}
	}
	return nil
}

// query asks the destination for its record of a migration, over a lane of its own. One
// that does not tell has none.
func query(ctx context.Context, dialer transport.Dialer, a transport.Attempt) (*transport.Status, error) {
	lane, err := dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer lane.Close()
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	control := transport.NewControl(lane)
	err = transport.WritePreamble(lane, transport.Preamble{Kind: transport.LaneControl, Mig: a.Mig, Epoch: a.Epoch})
	if err == nil {
		err = control.Send(&transport.Query{Attempt: a})
	}
	if err != nil {
		return nil, err
	}
	m, err := control.Receive()
	if status, ok := m.(*transport.Status); ok {
		return status, nil
	}
	return &transport.Status{Attempt: a, Record: handoff.None.String()}, err
}

func running(sources []Source) bool {
	return !slices.ContainsFunc(sources, func(s Source) bool {
		now, err := s.Device.State()
		return err != nil || now != vfio.Running
	})
}

// restart goes on with a hand-off that a process before this one has left at COMMIT.
// The source asks for its devices back only if they still hold what they held then.
func (e *engine) restart() {
	e.restarted = true
	last := e.opts.Journal.Last()
	e.out.Peer, e.bytes = last.PeerID, last.Why.Bytes
	e.clock.ready = time.Now()
	next, actions := handoff.RestartSource(last)
	e.owner = next
	e.owner.Empty = !stopped(e.sources)
	e.tell(report.Event{Kind: report.Phase, Phase: report.Commit})
	e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("going on with migration %v, attempt %d, which is recorded as %v: the destination is asked", last.Attempt.Mig, last.Attempt.Epoch, last.Record)})
	e.do(actions)
	e.seek(handoff.ErrInDoubt)
}

// stopped reports whether every device is where COMMIT has left it: only one that
// somebody else has kept open can be.
func stopped(sources []Source) bool {
	return !slices.ContainsFunc(sources, func(s Source) bool {
		now, err := s.Device.State()
		return err != nil || now != vfio.StopCopy && now != vfio.Stop
	})
}
