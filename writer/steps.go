package writer

import (
	"context"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/vfio"
)

// probed is the result of the probes before WELCOME: the answer of the witness, zero without one,
// and the doubts.
type probed struct {
	took   time.Duration
	err    error
	doubts string
}

// probeWitness probes the witness, if there is one, before the source pauses a guest.
func (o *Options) probeWitness(ctx context.Context) (p probed) {
	if o.Witness != nil {
		p.took, p.err = witness.Probe(ctx, o.Witness, handoff.DestSide)
	}
	return p
}

// describe puts the result into WELCOME.
func (p probed) describe(m *wire.Welcome) {
	m.Warning = p.doubts
	switch {
	case p.err != nil:
		m.WitnessNS, m.WitnessFault = wire.UnknownNS, p.err.Error()
	case p.took > 0:
		m.WitnessNS = p.took.Nanoseconds()
	}
}

// addStepTimes puts the times of steps that cannot be tried into WELCOME.
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

// lastTime is how long a step took in the last run, in nanoseconds.
func (o *Options) lastTime(step string) int64 {
	if o.StepTimes != nil {
		if took, ok := o.StepTimes.Last(step); ok {
			return max(1, took.Nanoseconds())
		}
	}
	return wire.UnknownNS
}
