package writer

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// timing is when the stages of an attempt began, as this side saw them, and the times of its steps.
// The loop owns it.
type timing struct {
	hello, welcomed         time.Time
	begun, stopped, running time.Time     // of the first byte, the pause of the guest, and RUNNING
	resetting               time.Time     // when the reset of the devices began
	cancelled               time.Time     // when the user cancelled, zero if not
	entered                 time.Duration // time of the transition to RESUMING
	fin                     *wire.Fin     // the source's figures

	steps steps
}

// steps are the steps of this side between COMMIT and RUNNING, besides the start of the devices.
// WELCOME gives the source their expected times, and RUNNING their measured ones.
type steps struct {
	askedAt         time.Time                // when COMMIT led to the question to the witness, zero before
	witness, accept time.Duration            // their times, 0 before
	ran             map[string]time.Duration // for StepTimes
}

// noteStep takes the time of a step that has ended.
func (s *steps) noteStep(step string, took time.Duration) {
	if s.ran == nil {
		s.ran = map[string]time.Duration{}
	}
	s.ran[step] = max(1, took)
}

// fillReport takes the times from FIN, so that both sides report the same. Without FIN it takes
// them from this side's clock. A downtime is part of the total, even if the source states
// otherwise.
func (t *timing) fillReport(r *migration.Report) {
	if t.fin != nil {
		r.Downtime = time.Duration(t.fin.DowntimeNS)
		r.Total = max(time.Duration(t.fin.TotalNS), r.Downtime)
		for _, s := range t.fin.Stages {
			r.Stages = append(r.Stages, migration.Stage{Name: transport.PeerText(s.Name), Took: time.Duration(s.NS)})
		}
		return
	}
	end := t.running
	if end.IsZero() {
		end = time.Now()
	}
	if !t.stopped.IsZero() {
		r.Downtime = end.Sub(t.stopped)
	}
	if !t.begun.IsZero() {
		r.Total = end.Sub(t.begun)
	}
	r.Total = max(r.Total, r.Downtime)
}
