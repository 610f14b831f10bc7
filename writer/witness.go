package writer

import (
	"fmt"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// witnessPause is how long a witness that does not answer is left alone.
const witnessPause = time.Second

func (e *engine) witnessed(ev witnessed) {
	if ev.err != nil && !e.watch.silent {
		e.watch.silent = true
		e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("the witness does not answer, and is asked again before anything is started: %v", ev.err)})
	}
	if ev.err == nil {
		e.times.steps.witness, e.times.steps.askedAt = time.Since(e.times.steps.askedAt), time.Time{}
	}
	e.own(handoff.Witnessed{Winner: ev.winner})
}

// accepted tells the hook. Only a copy that does not run yet can be given up for it.
func (e *engine) accepted(a transport.Attempt) (failed, warning error) {
	err := e.opts.OnAccept.Run(a)
	if err == nil {
		return nil, nil
	}
	err = fmt.Errorf("on-accept: %w", err)
	if !e.fleet.idle() {
		return nil, err
	}
	return &transport.Fault{Code: transport.CodeStart, Err: err}, nil
}
