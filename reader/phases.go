package reader

import (
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// advance steps the plan and does what it says.
func (e *engine) advance(ev any) {
	if e.owner.Phase != handoff.SourceTransfer {
		return
	}
	for _, a := range e.plan.step(time.Since(e.clock.start), ev) {
		switch a := a.(type) {
		case enter:
			e.enter(a)
		case pause:
			e.pause()
		case endStream:
			end := e.ends[a.device]
			end.Attempt = e.opts.Attempt
			e.control.Send(&end)
		case allDrained:
			e.allDrained()
		case giveUp:
			e.failed(&transport.Fault{Code: transport.CodeTimeout, Err: errors.New(a.why)})
		}
	}
}

func (e *engine) moved(ev moved) {
	if ev.err != nil {
		e.failed(e.fleet.fault(ev.err, e.drainedBytes))
	}
	if e.owner.Phase != handoff.SourceTransfer {
		return
	}
	e.startDrains()
	switch e.plan.phase {
	case entering:
		e.tell(report.Event{Kind: report.Phase, Phase: report.PreCopy})
	case stopping:
		e.stopped()
	}
	e.advance(reached{})
}

// stopped lets the drains take the end of the stream for what it is.
func (e *engine) stopped() {
	e.clock.stopped = time.Now()
	e.clock.moved = e.clock.stopped
	for _, d := range e.drains {
		close(d.final)
	}
	e.tell(report.Event{Kind: report.Phase, Phase: report.StopCopy})
	e.estimate()
	e.queue.divide(e.needs())
}

// pause stops the guest, and keeps the drains from asking for more dirty data.
func (e *engine) pause() {
	e.clock.paused = time.Now()
	e.tell(report.Event{Kind: report.Phase, Phase: report.Stop, Text: e.plan.because})
	for _, d := range e.drains {
		if d != nil {
			d.quiet.Store(true)
			e.precopied[d.device] = d.read.Load()
		}
	}
	if e.opts.PauseGuest == nil {
		e.guestPaused(nil)
		return
	}
	e.pauseGuest()
}

func (e *engine) guestPaused(err error) {
	if err != nil {
		e.failed(&transport.Fault{Code: transport.CodeDevice, Err: fmt.Errorf("pause the guest: %w", err)})
		return
	}
	e.advance(paused{})
}

func (e *engine) allDrained() {
	e.clock.drained = time.Now()
	e.draining.Wait() // each has said that it ended
	e.queue.close()
	digests := make([]transport.StreamDigest, len(e.ends))
	for i, end := range e.ends {
		digests[i] = end.Digest
	}
	e.own(handoff.Drained{Digest: transport.SetDigest(digests)})
}

func (e *engine) drainedBytes(device int) uint64 {
	if d := e.drains[device]; d != nil {
		return d.read.Load()
	}
	return 0
}
