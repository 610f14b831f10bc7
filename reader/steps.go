package reader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// ErrNoWitness ends an attempt before the guest is paused: the witness does not answer one of the
// two sides.
var ErrNoWitness = errors.New("the witness does not answer")

// predictSteps is the known time of each step of a switchover. WELCOME and this side's last run
// give it.
func (o *Options) predictSteps(m *wire.Welcome, sources []Source) (s plan.Steps) {
	s.Stop = o.lastTime(stopStep(sources))
	if o.PauseGuest != nil {
		s.Pause = o.lastTime(handoff.StepPause)
	}
	if o.Approve != nil {
		s.Decide = o.lastTime(handoff.StepDecide)
	}
	s.Journal = migration.Step{Took: handoff.WriteTook(o.Journal) + 2*statedStep(m.JournalNS).Took}
	s.Witness, s.Accept, s.Guest = statedStep(m.WitnessNS), statedStep(m.AcceptNS), statedStep(m.GuestNS)
	s.Start = statedStep(m.StartNS)
	return s
}

// stopStep names the stop of these devices.
func stopStep(sources []Source) string {
	drivers := make([]string, len(sources))
	for i, s := range sources {
		drivers[i] = vfio.Describe(s.Device).Driver
	}
	return handoff.StepOf(handoff.StepStop, drivers)
}

// lastTime is how long a step took in the last run.
func (o *Options) lastTime(name string) migration.Step {
	if o.StepTimes != nil {
		if took, ok := o.StepTimes.Last(name); ok {
			return migration.Step{Took: took}
		}
	}
	return migration.Step{Unknown: true}
}

// longestStep bounds the time that a destination may state for a step.
const longestStep = time.Hour

// statedStep is a step as WELCOME states it.
func statedStep(ns int64) migration.Step {
	return migration.Step{Took: time.Duration(min(max(ns, 0), int64(longestStep))), Unknown: ns < 0}
}

// destinationWarning is the warning in WELCOME, "" for none.
func destinationWarning(m *wire.Welcome) string {
	if m.Warning == "" {
		return ""
	}
	return "the destination warns: " + transport.PeerText(m.Warning)
}

// probeWitness probes the witness before an attempt begins that may need its decision.
func probeWitness(ctx context.Context, o *Options) error {
	if o.Witness == nil {
		return nil
	}
	_, err := witness.Probe(ctx, o.Witness, handoff.SourceSide)
	if err != nil && ctx.Err() != nil {
		return &transport.Fault{Code: transport.CodeCancelled, Err: context.Cause(ctx)}
	}
	if f := o.refuseSilentWitness(err, false); f != nil {
		return f
	}
	return nil
}

// checkWitness finds a destination whose witness did not answer.
func (o *Options) checkWitness(m *wire.Welcome) *transport.Fault {
	if m.WitnessFault == "" {
		return nil
	}
	return o.refuseSilentWitness(errors.New(transport.PeerText(m.WitnessFault)), true)
}

// refuseSilentWitness ends an attempt whose witness did not answer a probe, unless the user accepts
// that.
func (o *Options) refuseSilentWitness(err error, remote bool) *transport.Fault {
	switch {
	case err == nil:
		return nil
	case o.IgnoreSilentWitness:
		o.Observe(migration.Event{Kind: migration.Warning, Text: fmt.Sprintf("%v, and the migration begins nevertheless: %v", ErrNoWitness, err)})
		return nil
	}
	return &transport.Fault{Code: transport.CodeNetwork, Remote: remote, Err: fmt.Errorf("%w: %w", ErrNoWitness, err)}
}
