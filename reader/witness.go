package reader

import (
	"errors"
	"fmt"
	"sync"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// hooks is what those that have run came to.
type hooks struct {
	running             sync.WaitGroup // on-commit, which ends by itself
	committed, reverted error
}

func (e *engine) witnessed(ev witnessed) {
	switch {
	case ev.err != nil && !e.watch.silent:
		e.watch.silent = true
		e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("the witness does not answer, and is asked again: %v", ev.err)})
	case ev.winner == handoff.DestSide && e.owner.InDoubt():
		e.tell(report.Event{Kind: report.Warning, Text: "the witness has given the devices to the destination, which may run them: only it can say"})
	case ev.winner == handoff.SourceSide && e.owner.InDoubt():
		e.keep(&transport.Fault{Code: transport.CodeTimeout, Err: errors.New("the destination has not answered COMMIT, and the witness gave the devices back")})
	}
	e.own(handoff.Witnessed{Winner: ev.winner})
}

// overruled keeps, for the report, what only people can answer: somebody has decided at
// the destination, or what it had accepted is gone.
func (e *engine) overruled(m *transport.Status) {
	if !e.owner.InDoubt() || m.Journal != e.owner.Peer {
		return
	}
	switch m.Record {
	case handoff.Ready.String(), handoff.Accept.String():
		if m.Text != "" {
			e.turnedAway(&transport.Fault{Code: transport.CodeBusy, Remote: true, Err: fmt.Errorf("its record is %s: %s", m.Record, transport.PeerText(m.Text))})
		}
	case handoff.Forced.String():
		e.keep(&transport.Fault{Code: transport.CodeDecided, Remote: true, Err: fmt.Errorf("the destination's record is %v of attempt %d (%s), this side's is %v of attempt %d",
			handoff.Forced, m.MaxEpoch, transport.PeerText(m.Text), e.owner.Record, e.owner.Attempt.Epoch)})
	case handoff.Lost.String():
		e.keep(&transport.Fault{Code: transport.CodeLost, Remote: true, Err: fmt.Errorf("the destination's record is %v of attempt %d: what it had accepted, and may have run, is not in its devices any more; this side's is %v",
			handoff.Lost, m.MaxEpoch, e.owner.Record)})
	}
}

// tellHooks reports hooks that failed. They have ended.
func (e *engine) tellHooks() {
	if err := e.hooks.committed; err != nil {
		e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("on-commit: %v", err))
	}
	if err := e.hooks.reverted; err != nil {
		e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("on-revert: %v", err))
	}
}
