package writer

import (
	"context"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/vfio"
)

// probed is what was found out before WELCOME: the answer of a probe of the witness, zero
// without one, and the doubts.
type probed struct {
	took   time.Duration
	err    error
	doubts string
}

// probe asks the witness, if there is one, before the source stops a guest for it.
func (o *Options) probeWitness(ctx context.Context) (p probed) {
	if o.Witness != nil {
		p.took, p.err = witness.Probe(ctx, o.Witness, handoff.DestSide)
	}
	return p
}

// tell has WELCOME say it.
func (p probed) describe(m *wire.Welcome) {
	m.Warning = p.doubts
	switch {
	case p.err != nil:
		m.WitnessNS, m.WitnessFault = wire.UnknownNS, p.err.Error()
	case p.took > 0:
		m.WitnessNS = p.took.Nanoseconds()
	}
}

// foretell has WELCOME say how long the steps took that cannot be tried.
func (o *Options) addStepTimes(m *wire.Welcome, targets []Target) {
	m.StartNS = o.lastTime(startStep(targets))
	if o.OnAccept != nil {
		m.AcceptNS = o.lastTime(handoff.StepAccept)
	}
	if o.StartGuest != nil {
		m.GuestNS = o.lastTime(handoff.StepGuest)
	}
}

// startStep names the start of these devices.
func startStep(targets []Target) string {
	drivers := make([]string, len(targets))
	for i, s := range targets {
		drivers[i] = vfio.Describe(s.Device).Driver
	}
	return handoff.StepOf(handoff.StepStart, drivers)
}

func (o *Options) lastTime(step string) int64 {
	if o.StepTimes != nil {
		if took, ok := o.StepTimes.Last(step); ok {
			return max(1, took.Nanoseconds())
		}
	}
	return wire.UnknownNS
}
