package reader

import (
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
