package writer

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// timing is when the stages of an attempt began, as this side saw them, and what its steps
// take. The loop owns it.
type timing struct {
	hello, welcomed         time.Time
	begun, stopped, running time.Time     // the first byte, and the guest
	resetting               time.Time     // since when devices are being reset
	cancelled               time.Time     // when the user cancelled, zero if he has not
	entered                 time.Duration // what the way to RESUMING took
	fin                     *wire.Fin     // the source's figures

	steps steps
}

// steps are what this side does between COMMIT and RUNNING besides the start of the
// devices. The source predicts them by WELCOME, and RUNNING says what they took.
type steps struct {
	askedAt         time.Time                // when COMMIT had the witness asked, zero before
	witness, accept time.Duration            // what they took, 0 before
	ran             map[string]time.Duration // for StepTimes
}

// note takes in that a step has run to its end.
func (s *steps) noteStep(step string, took time.Duration) {
	if s.ran == nil {
		s.ran = map[string]time.Duration{}
	}
	s.ran[step] = max(1, took)
}

// figures takes the times from FIN, so that both sides show the same, and from
// this side's own clock where the source has sent none. A downtime is part of the total,
// even if the source says otherwise.
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
