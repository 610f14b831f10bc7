package writer

import (
	"errors"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

func (e *engine) tell(ev report.Event) { e.opts.Observe(ev) }

func (e *engine) snapshots() []report.Snapshot {
	out := make([]report.Snapshot, len(e.merges))
	for i, m := range e.merges {
		ack, _ := m.status()
		if ack.Applied > 0 && e.clock.begun.IsZero() {
			e.clock.begun = time.Now()
		}
		est := e.estimate[i]
		out[i] = report.Snapshot{
			Name: e.offer.Devices[i].Name, Phase: e.phase(), Bytes: ack.Applied, Applied: ack.Applied,
			Wire: e.wire[i].Load(), Remaining: est.Initial + est.Dirty, Known: est.Known,
		}
		if e.clock.stopped.IsZero() && out[i].Remaining > 0 {
			continue
		}
		out[i].Remaining = est.StopCopy - min(est.StopCopy, ack.Applied)
	}
	return out
}

func (e *engine) phase() string {
	if e.clock.stopped.IsZero() {
		return report.PreCopy
	}
	return report.StopCopy
}

// stages splits the downtime as far as this side sees it.
func (c *clock) stages() []report.Stage {
	if c.running.IsZero() || c.stopped.IsZero() || c.commit.IsZero() {
		return nil
	}
	return []report.Stage{
		{Name: "load", Took: c.ready.Sub(c.stopped)},
		{Name: "commit", Took: c.commit.Sub(c.ready)},
		{Name: "start", Took: c.running.Sub(c.commit)},
	}
}

// finishReport prefers the source's figures, which it sent with FIN.
func (e *engine) finishReport() {
	e.snapshots()
	e.out.Total, e.out.Downtime, e.out.Stages = e.clock.total, e.clock.downtime, e.clock.stages()
	end := e.clock.running
	if end.IsZero() {
		end = time.Now()
	}
	if e.out.Total == 0 && !e.clock.begun.IsZero() {
		e.out.Total = end.Sub(e.clock.begun)
	}
	if e.out.Downtime == 0 && !e.clock.stopped.IsZero() {
		e.out.Downtime = end.Sub(e.clock.stopped)
	}
	e.out.Lanes = len(e.lanes)
	states := e.fleet.states()
	for i, l := range e.loaders {
		e.out.Devices = append(e.out.Devices, report.Device{
			Name: l.name, Bytes: l.digest.Bytes(), WireBytes: e.wire[i].Load(), Chunks: l.digest.Chunks(),
			Digest: l.digest.Sum(), Path: l.path(), State: states[e.terms.order[i]],
		})
	}
}

func (e *engine) result() (report.Report, error) {
	e.finishReport()
	if e.out.Outcome == handoff.Committed {
		return e.out, nil
	}
	if e.fault == nil {
		e.fault = &transport.Fault{Code: transport.CodeInternal, Err: errors.New("writer: ended without a cause")}
	}
	return e.out, e.fault
}
