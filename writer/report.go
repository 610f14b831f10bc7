package writer

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// tell observes an event of the attempt, once HELLO has named one.
func (e *engine) tell(ev report.Event) {
	if ev.Kind != report.Asked {
		ev.Attempt = cmp.Or(ev.Attempt, e.out.Attempt)
	}
	e.opts.Observe(ev)
}

func (e *engine) snapshots() []report.Snapshot {
	out := make([]report.Snapshot, len(e.merges))
	for i, m := range e.merges {
		applied := m.position()
		if applied > 0 && e.clock.begun.IsZero() {
			e.clock.begun = time.Now()
		}
		out[i] = report.Snapshot{
			Name: e.offer.Devices[i].Name, Phase: e.phase(), Bytes: applied, Applied: applied,
			Wire: e.wire[i].Load(), Remaining: e.left(i), Known: e.estimate[i].Known,
		}
	}
	return out
}

func (e *engine) phase() string {
	switch e.owner.Phase {
	case handoff.DestReady, handoff.DestStarting:
		return report.Commit
	case handoff.DestRunning:
		return report.Running
	case handoff.DestResetting:
		return report.Rollback
	}
	if e.clock.stopped.IsZero() {
		return report.PreCopy
	}
	return report.StopCopy
}

// figures takes the times from FIN, so that both sides show the same, and from
// this side's own clock where the source has sent none. A downtime is part of the total,
// even if the source says otherwise.
func (c *clock) figures(r *report.Report) {
	if c.fin != nil {
		r.Downtime = time.Duration(c.fin.DowntimeNS)
		r.Total = max(time.Duration(c.fin.TotalNS), r.Downtime)
		for _, s := range c.fin.Stages {
			r.Stages = append(r.Stages, report.Stage{Name: transport.PeerText(s.Name), Took: time.Duration(s.NS)})
		}
		return
	}
	end := c.running
	if end.IsZero() {
		end = time.Now()
	}
	if !c.stopped.IsZero() {
		r.Downtime = end.Sub(c.stopped)
	}
	if !c.begun.IsZero() {
		r.Total = end.Sub(c.begun)
	}
	r.Total = max(r.Total, r.Downtime)
}

func (e *engine) finishReport() {
	e.snapshots()
	e.clock.figures(&e.out)
	e.out.Lanes = len(e.dialled())
	e.out.Fill, e.out.StopFill = e.fills()
	e.out.NameBottleneck()
	states := e.states()
	if len(e.loaders) == 0 || e.stuck { // nothing was loaded, or nobody can say what
		for i, s := range e.fleet.sinks {
			e.out.Devices = append(e.out.Devices, report.Device{Name: s.Name, State: states[i]})
		}
		return
	}
	for i, l := range e.loaders {
		e.out.Devices = append(e.out.Devices, report.Device{
			Name: l.name, Bytes: l.digest.Bytes(), WireBytes: e.wire[i].Load(), Chunks: l.digest.Chunks(),
			Digest: l.digest.Sum(), Path: l.path(), State: states[e.terms.order[i]],
		})
	}
}

// states asks the devices where they are, unless a driver has just shown that
// it may not answer.
func (e *engine) states() []string {
	if e.stuck {
		return slices.Repeat([]string{"unknown: a write to the device does not end"}, len(e.fleet.sinks))
	}
	return e.fleet.states()
}

func (e *engine) result() (report.Report, error) {
	e.finishReport()
	committed := e.out.Outcome == handoff.Committed
	if e.unrecorded != nil && (committed || e.fault != e.unrecorded) {
		e.out.Warnings = append(e.out.Warnings, e.unrecorded.Error())
	}
	if committed {
		return e.out, nil
	}
	if e.fault == nil {
		e.fault, e.tooLate = e.tooLate, nil
	}
	if e.tooLate != nil {
		e.out.Warnings = append(e.out.Warnings, e.tooLate.Error())
	}
	if e.waits.Record != handoff.None && e.out.Outcome == handoff.Rolledback && e.out.Attempt == (transport.Attempt{}) {
		e.out.Outcome, e.out.Attempt, e.out.Peer = handoff.InDoubt, e.waits.Attempt, e.waits.PeerID
	}
	if e.fault == nil {
		e.fault = &transport.Fault{Code: transport.CodeInternal, Err: errors.New("writer: ended without a cause")}
	}
	return e.out, e.fault
}
