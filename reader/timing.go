package reader

import (
	"strings"
	"time"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport/migration"
)

// timing is when the stages of a switchover began, and what its steps take: as foreseen, and
// as measured. The loop owns it.
type timing struct {
	start, began                                    time.Time // of the engine, and of the conversation
	hello, paused, stopped, drained, ready, running time.Time
	firstApplied                                    time.Time     // when a byte that was read since the pause was applied
	sent                                            time.Time     // when the last chunk was given to a lane
	calledOff                                       time.Duration // in stops that were called off
	back, resumed                                   time.Time     // a rollback's beginning and end
	startTook                                       time.Duration
	witnessTook, acceptTook                         time.Duration // before that, as RUNNING tells
	ownerDecides                                    bool          // the owner does, between ready and approved
	approved                                        time.Time

	cancelled time.Time        // when the user gave up, zero if he has not
	atLimit   <-chan time.Time // when a stop has lasted as long as is wanted

	steps       plan.Steps               // as foreseen, by WELCOME and by earlier runs
	ran         map[string]time.Duration // of this run, for StepTimes; nil before
	slowestMove time.Duration            // of the transitions so far
	enterTook   time.Duration            // of the destination, to RESUMING
}

// note takes in how long a step of this run took.
func (t *timing) noteStep(name string, took time.Duration) {
	if t.ran == nil {
		t.ran = map[string]time.Duration{}
	}
	t.ran[name] = max(1, took)
}

// total is the time from the first byte, or from the guest's pause if that came first, to
// RUNNING, or to now.
func (t *timing) total(firstByte time.Time) time.Duration {
	began := earliest(firstByte, t.paused)
	if began.IsZero() {
		return 0
	}
	return t.ending().Sub(began)
}

// downtime is the time from the guest's pause to RUNNING, or to now. Stops that
// were called off are apart.
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

// decided is when COMMIT was up to nobody but this side.
func (t *timing) decided() time.Time { return latest(t.ready, t.approved) }

// stages splits the downtime of a migration that was committed. What came before
// its turn, since much happens at the same time, has taken nothing. A source that was
// started again in doubt has not seen it.
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
	// These are the destination's figures, which are its word only.
	left := t.running.Sub(decided)
	part := func(told time.Duration) time.Duration {
		took := min(max(told, 0), left)
		left -= took
		return took
	}
	start, witness, accept := part(t.startTook), part(t.witnessTook), part(t.acceptTook)
	stages = append(stages, migration.Stage{Name: migration.StageCommit, Took: left})
	for _, s := range []migration.Stage{{Name: migration.StageWitness, Took: witness}, {Name: migration.StageAccept, Took: accept}} {
		if s.Took > 0 {
			stages = append(stages, s)
		}
	}
	return append(stages, migration.Stage{Name: migration.StageStart, Took: start})
}

// earlier is the earlier of two times. A time that has not come yet is none.
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

// stage is the part of the stop that is under way, what it has taken, what it was
// predicted to take, and what those behind it were.
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

// behindCommit names what the destination does before it answers COMMIT.
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
