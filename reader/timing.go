package reader

import (
	"strings"
	"time"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport/migration"
)

// timing is when the stages of a switchover began, and the times of its steps, as predicted and as
// measured. The loop owns it.
type timing struct {
	start, began                                    time.Time     // of the engine
	hello, paused, stopped, drained, ready, running time.Time     // of the stages
	firstApplied                                    time.Time     // when the first byte read after the pause was applied
	sent                                            time.Time     // when the last chunk was given to a lane
	calledOff                                       time.Duration // total length of the pauses that were called off
	back, resumed                                   time.Time     // begin and end of the way back
	startTook                                       time.Duration // of the devices at the destination, by RUNNING
	witnessTook, acceptTook                         time.Duration // of the destination, by RUNNING
	ownerDecides                                    bool          // the owner decides between ready and approved
	approved                                        time.Time

	cancelled time.Time        // when the user cancelled, zero if not
	atLimit   <-chan time.Time // fires when the guest has been paused for the downtime target

	steps       plan.Steps               // as predicted by WELCOME and by earlier runs
	ran         map[string]time.Duration // of this run, for StepTimes; nil before
	slowestMove time.Duration            // of all transitions so far
	enterTook   time.Duration            // the destination's transition to RESUMING
}

// noteStep takes the time of a step of this run.
func (t *timing) noteStep(name string, took time.Duration) {
	if t.ran == nil {
		t.ran = map[string]time.Duration{}
	}
	t.ran[name] = max(1, took)
}

// total is the time from the first byte to RUNNING, or to now. If the guest was paused before the
// first byte, total counts from that pause.
func (t *timing) total(firstByte time.Time) time.Duration {
	began := earliest(firstByte, t.paused)
	if began.IsZero() {
		return 0
	}
	return t.ending().Sub(began)
}

// downtime is the time from the guest's pause to RUNNING, or to now. It leaves out pauses that were
// called off.
func (t *timing) downtime() time.Duration {
	if t.paused.IsZero() {
		return 0
	}
	return t.ending().Sub(t.paused)
}

// ending is when the guest ran again, on either side.
func (t *timing) ending() time.Time {
	for _, t := range []time.Time{t.running, t.resumed} {
		if !t.IsZero() {
			return t
		}
	}
	return time.Now()
}

// decided is when only this side could still delay COMMIT.
func (t *timing) decided() time.Time { return latest(t.ready, t.approved) }

// stages splits the downtime of a committed migration into its stages. Stages overlap: a stage that
// ended before its predecessor did takes no time. A source that was started again in doubt has
// measured none.
func (t *timing) stages() (stages []migration.Stage) {
	if t.paused.IsZero() || t.running.IsZero() || t.ready.IsZero() {
		return nil
	}
	at := t.paused
	upTo := func(name string, next time.Time) {
		next = earliest(t.ready, latest(at, next))
		stages, at = append(stages, migration.Stage{Name: name, Took: next.Sub(at)}), next
	}
	upTo(migration.StageStop, t.stopped)
	upTo(migration.StageFill, t.firstApplied)
	upTo(migration.StageSave, t.drained)
	upTo(migration.StageWire, t.sent)
	upTo(migration.StageLoad, t.ready)
	decided := t.decided()
	if t.ownerDecides {
		stages = append(stages, migration.Stage{Name: migration.StageDecide, Took: decided.Sub(t.ready)})
	}
	// The destination states these figures, so bound them.
	rest := t.running.Sub(decided)
	part := func(stated time.Duration) time.Duration {
		took := min(max(stated, 0), rest)
		rest -= took
		return took
	}
	start, witness, accept := part(t.startTook), part(t.witnessTook), part(t.acceptTook)
	stages = append(stages, migration.Stage{Name: migration.StageCommit, Took: rest})
	for _, s := range []migration.Stage{{Name: migration.StageWitness, Took: witness}, {Name: migration.StageAccept, Took: accept}} {
		if s.Took > 0 {
			stages = append(stages, s)
		}
	}
	return append(stages, migration.Stage{Name: migration.StageStart, Took: start})
}

// earliest is the earlier of two times. A zero time has not come.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) && !b.IsZero() {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// currentStage is the present stage of the switchover: its name, its time so far, its prediction,
// and the prediction for all later stages.
func (t *timing) currentStage(now time.Time, p migration.Prediction) (name string, took time.Duration, predicted, next migration.Span) {
	end := migration.AddSpans(p.Commit, p.Witness.Span(), p.Accept.Span(), p.Start)
	moving := migration.AddSpans(p.Fill, p.Save, p.Wire, p.Load)
	switch {
	case t.stopped.IsZero():
		return "stopping the devices", now.Sub(t.paused), p.Stop, migration.AddSpans(moving, p.Decide.Span(), end)
	case t.ready.IsZero():
		return "moving their state", now.Sub(t.stopped), moving, migration.AddSpans(p.Decide.Span(), end)
	case t.ownerDecides && t.approved.IsZero():
		return "the approval of the switchover", now.Sub(t.ready), p.Decide.Span(), end
	}
	return behindCommit(p), now.Sub(t.decided()), end, migration.Span{Known: true}
}

// behindCommit names the steps of the destination before it answers COMMIT.
func behindCommit(p migration.Prediction) string {
	var before []string
	if p.Witness != (migration.Step{}) {
		before = append(before, "the witness")
	}
	if p.Accept != (migration.Step{}) {
		before = append(before, "on-accept")
	}
	const start = "the start at the destination"
	if before == nil {
		return start
	}
	return strings.Join(before, ", ") + " or " + start
}
