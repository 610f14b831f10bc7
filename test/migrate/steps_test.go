package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// slowWitness answers slowly, also to a probe, or never answers a side.
type slowWitness struct {
	takes  time.Duration
	silent handoff.Side
}

func (*slowWitness) Name() string { return "slow" }

func (w *slowWitness) Decide(ctx context.Context, _ migration.Attempt, me handoff.Side) (handoff.Side, error) {
	takes := w.takes
	if me == w.silent {
		takes = time.Hour
	}
	select {
	case <-time.After(takes):
		return me, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// slowJournal records slowly, and reports its durations.
type slowJournal struct {
	*handoff.Memory
	takes time.Duration
}

func (j slowJournal) Append(e handoff.Entry) error {
	time.Sleep(j.takes)
	return j.Memory.Append(e)
}

func (j slowJournal) WriteTook() time.Duration { return j.takes }

// stepTimes is a handoff.StepTimes in memory.
type stepTimes map[string]time.Duration

func (t stepTimes) Last(step string) (time.Duration, bool) {
	took, ok := t[step]
	return took, ok
}

func (t stepTimes) Keep(took map[string]time.Duration) error {
	maps.Copy(t, took)
	return nil
}

// sleeps is a slow call of the options.
func sleeps(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

// TestSteps: every step between the pause and RUNNING is predicted, once it has run or
// was tried. A switchover over the limit is refused with the name of the step.
func TestSteps(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(p *pair)
		tried bool   // it is known without an earlier run
		says  string // the error of a limit that is exceeded
		bound string // the bottleneck if no limit is exceeded
		query string // of the devices
	}{
		"witness": {tried: true, says: "witness 700ms", bound: migration.StageWitness,
			set: func(p *pair) { p.witnessed(&slowWitness{takes: 700 * time.Millisecond}) }},
		"on-accept": {says: "on-accept 500ms", bound: migration.StageAccept,
			set: func(p *pair) { p.receive.OnAccept = slowly(500 * time.Millisecond) }},
		"owner": {says: "decide 5", bound: migration.StageDecide,
			set: func(p *pair) { p.send.Approve = sleeps(500 * time.Millisecond) }},
		"pause": {says: "stop 500ms", bound: migration.StageStop,
			set: func(p *pair) { p.send.PauseGuest = sleeps(500 * time.Millisecond) }},
		"start of the guest": {says: "start 500ms", bound: migration.StageStart,
			set: func(p *pair) { p.receive.StartGuest = sleeps(500 * time.Millisecond) }},
		"stop of a device":  {says: "stop 500ms", bound: migration.StageStop, query: "&stop=500ms"},
		"start of a device": {says: "start 500ms", bound: migration.StageStart, query: "&start=500ms"},
		"journals": {tried: true, says: "commit 60", bound: migration.StageCommit, set: func(p *pair) {
			p.send.Journal = slowJournal{handoff.NewMemory(), 200 * time.Millisecond}
			p.receive.Journals = func(migration.ID, bool) (handoff.Journal, error) {
				return slowJournal{handoff.NewMemory(), 200 * time.Millisecond}, nil
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				times := [2]stepTimes{{}, {}}
				pair := func(limit time.Duration) *pair {
					p := newPair(t, paced(50<<20, time.Millisecond))
					p.add(t, "nic0", nic+c.query, nic+c.query)
					p.send.DowntimeTarget, p.send.StepTimes, p.receive.StepTimes = limit, times[0], times[1]
					if c.set != nil {
						c.set(p)
					}
					return p
				}
				p := pair(2 * time.Second) // the first run, whose steps are unknown
				s, r := p.run(t)
				p.committed(t, s, r)
				for _, stage := range s.report.Predicted.Stages() {
					if stage.Name == c.bound && stage.Known != c.tried {
						t.Errorf("at first %+v was predicted", stage)
					}
				}
				if s.report.Predicted.Downtime.Known {
					t.Errorf("at first %v was predicted: no device has shown how long it stops and starts", s.report.Predicted.Downtime)
				}
				p = pair(2 * time.Second)
				s, r = p.run(t)
				p.committed(t, s, r)
				if off, ok := s.report.PredictionError(); !ok || off < -0.1 || off > 0.1 {
					t.Errorf("predicted %+v, it took %v: %v", s.report.Predicted.Downtime, s.report.Downtime, s.report.Stages)
				}
				if s.report.StopOccupancy.Bottleneck != c.bound || r.report.StopOccupancy.Bottleneck != c.bound {
					t.Errorf("bound by %s, and %s at the destination: %v", s.report.StopOccupancy.Bottleneck, r.report.StopOccupancy.Bottleneck, s.report.Stages)
				}
				p = pair(300 * time.Millisecond)
				s, _ = p.run(t)
				limit, ok := errors.AsType[*reader.LimitError](s.err)
				if !ok || limit.Limit != reader.LimitFixed || !strings.Contains(s.err.Error(), c.says) {
					t.Errorf("over the limit: %v", s.err)
				}
				if s.report.Downtime != 0 || wentTo(p.src[0], vfio.StopCopy) {
					t.Errorf("the downtime is %v", s.report.Downtime)
				}
				p.atHome(t)
			})
		})
	}
}

// TestWitnessSilent: the source detects a witness that does not answer one side before it
// pauses the guest, with any Options.OnLimit. Only Options.IgnoreSilentWitness begins the
// migration all the same.
func TestWitnessSilent(t *testing.T) {
	for _, silent := range []handoff.Side{handoff.SourceSide, handoff.DestSide} {
		for _, c := range []struct {
			policy reader.OnLimit
			ignore bool
		}{{policy: reader.Refuse}, {policy: reader.Continue}, {policy: reader.Force}, {policy: reader.Refuse, ignore: true}} {
			t.Run(fmt.Sprint(silent, c.policy, c.ignore), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t, paced(50<<20, time.Millisecond))
					p.add(t, "nic0", nic, nic)
					w := &slowWitness{silent: silent}
					p.witnessed(w)
					p.send.OnLimit, p.send.IgnoreSilentWitness = c.policy, c.ignore
					if c.ignore {
						p.send.Observe = func(ev migration.Event) {
							if ev.Kind == migration.Warning && strings.Contains(ev.Text, reader.ErrNoWitness.Error()) {
								w.silent = 0 // it answers again during the switchover
							}
						}
						p.succeed(t)
						return
					}
					began := time.Now()
					p.lonely = silent == handoff.SourceSide // no message reaches the destination
					s, r := p.run(t)
					if f, ok := errors.AsType[*transport.Fault](r.err); silent == handoff.DestSide && (!ok || f.Remote || !errors.Is(f, writer.ErrNoWitness)) {
						t.Errorf("the destination's own witness is silent, and the error is: %v", r.err)
					}
					if !errors.Is(s.err, reader.ErrNoWitness) && !strings.Contains(s.err.Error(), reader.ErrNoWitness.Error()) {
						t.Errorf("send: %v", s.err)
					}
					if took := time.Since(began); took > 7*time.Second {
						t.Errorf("it took %v", took)
					}
					if wentTo(p.src[0], vfio.PreCopy) || wentTo(p.src[0], vfio.StopCopy) {
						t.Error("the source's device was touched")
					}
					p.atHome(t)
				})
			})
		}
	}
}
