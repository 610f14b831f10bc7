package reader

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
)

// ErrNoWitness ends an attempt, before the guest is stopped, whose witness gives no
// answer to one of the two sides.
var ErrNoWitness = errors.New("the witness does not answer")

// steps are those parts of a stop that no rate says the length of. The zero value has none.
type steps struct {
	stop    report.Step // of the devices
	pause   report.Step // of the guest
	journal report.Step // three records, of both sides
	decide  report.Step // the owner's word
	witness report.Step
	accept  report.Step // the hook on ACCEPT
	start   report.Step // of the devices
	guest   report.Step // its start
}

// unknown names the steps whose time neither side knows. A prediction has something to say of
// the stop and the start of devices, although it was never measured: see plan.forecast.
func (s steps) unknown() (names []string) {
	for _, one := range []struct {
		name string
		report.Step
	}{{"the pause of the guest", s.pause}, {"the owner's word", s.decide}, {"the witness", s.witness},
		{"on-accept", s.accept}, {"the start of the guest", s.guest}} {
		if one.Unknown {
			names = append(names, one.name)
		}
	}
	return names
}

// foresee is what is known of the steps of a stop, by WELCOME and by this side's
// last run.
func (o *Options) foresee(m *transport.Welcome, sources []Source) (s steps) {
	s.stop = o.last(stopStep(sources))
	if o.PauseGuest != nil {
		s.pause = o.last(handoff.StepPause)
	}
	if o.Approve != nil {
		s.decide = o.last(handoff.StepDecide)
	}
	s.journal = report.Step{Took: handoff.WriteTook(o.Journal) + 2*told(m.JournalNS).Took}
	s.witness, s.accept, s.guest = told(m.WitnessNS), told(m.AcceptNS), told(m.GuestNS)
	s.start = told(m.StartNS)
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

func (o *Options) last(name string) report.Step {
	if o.StepTimes != nil {
		if took, ok := o.StepTimes.Last(name); ok {
			return report.Step{Took: took}
		}
	}
	return report.Step{Unknown: true}
}

// longestStep bounds what a destination may say of a step.
const longestStep = time.Hour

// told is a step as WELCOME tells it.
func told(ns int64) report.Step {
	return report.Step{Took: time.Duration(min(max(ns, 0), int64(longestStep))), Unknown: ns < 0}
}

// destinationWarns is what the destination thinks will fail, "" for nothing.
func destinationWarns(m *transport.Welcome) string {
	if m.Warning == "" {
		return ""
	}
	return "the destination warns: " + transport.PeerText(m.Warning)
}

// warnUnknown tells of what the prediction leaves out.
func (e *engine) warnUnknown() {
	if names := e.times.steps.unknown(); len(names) > 0 {
		e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("the downtime is predicted without %s: how long that takes is not known before it has run once", strings.Join(names, ", "))})
	}
}

// probeWitness asks the witness before anything is begun that it may have to decide.
func probeWitness(ctx context.Context, o *Options) error {
	if o.Witness == nil {
		return nil
	}
	_, err := witness.Probe(ctx, o.Witness, handoff.SourceSide)
	if err != nil && ctx.Err() != nil {
		return &transport.Fault{Code: transport.CodeCancelled, Err: context.Cause(ctx)}
	}
	if f := o.refuseWithout(err, false); f != nil {
		return f
	}
	return nil
}

// checkWitness finds a destination whose witness did not answer.
func (o *Options) checkWitness(m *transport.Welcome) *transport.Fault {
	if m.WitnessFault == "" {
		return nil
	}
	return o.refuseWithout(errors.New(transport.PeerText(m.WitnessFault)), true)
}

// refuseWithout ends an attempt whose witness did not answer a probe, unless the user
// accepts that.
func (o *Options) refuseWithout(err error, remote bool) *transport.Fault {
	switch {
	case err == nil:
		return nil
	case o.IgnoreSilentWitness:
		o.Observe(report.Event{Kind: report.Warning, Text: fmt.Sprintf("%v, and the migration begins all the same: %v", ErrNoWitness, err)})
		return nil
	}
	return &transport.Fault{Code: transport.CodeNetwork, Remote: remote, Err: fmt.Errorf("%w: %w", ErrNoWitness, err)}
}
