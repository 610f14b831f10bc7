package reader

import (
	"cmp"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// watch decides when the engine has waited too long: for WELCOME, for a lost connection, for the
// switchover, for the answer to COMMIT, or for devices on the way back. It is pure: tick takes the
// time and the facts, and returns actions. It knows no device, journal or connection, and sends
// neither COMMIT nor ABORT.
type watch struct {
	limits watchLimits

	moved   uint64    // bytes that were read, plus bytes that were applied
	movedAt time.Time // when that last changed, or when all devices had stopped

	warnedLate     bool      // the user was warned of a downtime over the limit
	warnedSlowBack bool      // and of devices that do not run again
	warnedDoubt    bool      // and of a COMMIT without an answer
	askedBack      bool      // the destination was asked to give the devices back
	askedAt        time.Time // when the witness was last asked
	backTooLong    bool      // the wait for the way back has ended
	warnedWitness  bool      // the user was warned of a witness that does not answer
}

// watchLimits are the limits of Options.
type watchLimits struct {
	welcome     time.Duration
	reconnect   time.Duration
	downtime    time.Duration // the target
	maxDowntime time.Duration // ends the attempt
	stall       time.Duration
	cancelAfter time.Duration
}

// facts are the engine's facts. A zero time has not come.
type facts struct {
	phase handoff.SourcePhase
	plan  plan.Phase
	times *timing

	predicted *migration.Forecast // of the present switchover, nil before
	moved     uint64              // bytes that were read, plus bytes that were applied
	slowest   string              // a device whose stream has not ended
	offset    uint64              // of that stream

	noLaneSince time.Time        // when the last data lane was lost
	lostAt      time.Time        // when the control lane was lost
	lossCause   error            // why it was lost
	refusal     *transport.Fault // the reply of a destination that cannot answer COMMIT

	doubtLimit  time.Duration // for the answer to COMMIT, 0 is none
	cancelledAt time.Time
	witness     bool // there is one
	empty       bool // the devices no longer hold the state that they had at COMMIT
	sole        bool // the destination may have the only copy
}

// watchAction is an action of the watch.
//
//sumtype:decl
type watchAction interface{ isWatchAction() }

// The actions of the watch.
type (
	// endAttempt ends the attempt by a fault, and an event for the hand-off.
	endAttempt struct {
		fault *transport.Fault
		event handoff.SourceEvent
	}
	// notifyHandoff gives the hand-off an event.
	notifyHandoff struct{ event handoff.SourceEvent }
	// warnUser emits a warning. A lasting one is in the report instead.
	warnUser struct {
		text    string
		lasting bool
	}
)

func (endAttempt) isWatchAction()    {}
func (notifyHandoff) isWatchAction() {}
func (warnUser) isWatchAction()      {}

// noteStopped says that all devices have stopped.
func (w *watch) noteStopped(now time.Time) { w.movedAt = now }

// tick is the whole behaviour of the machine.
func (w *watch) tick(now time.Time, f facts) (actions []watchAction) {
	if a := w.checkDowntime(now, f); a != nil {
		actions = append(actions, a)
	}
	switch f.phase {
	case handoff.SourceHello:
		return append(actions, w.checkWelcome(now, f)...)
	case handoff.SourceTransfer, handoff.SourceWaiting:
		if ends := w.checkSwitchover(now, f); ends != nil {
			return append(actions, ends...)
		}
		return append(actions, w.checkConnection(now, f)...)
	case handoff.SourceDeciding:
		if ends := w.checkDecision(now, f); ends != nil {
			return append(actions, ends...)
		}
		return append(actions, w.checkConnection(now, f)...)
	case handoff.SourceDoubt:
		return append(actions, w.checkAnswer(now, f)...)
	case handoff.SourceHalting, handoff.SourceResuming:
		return append(actions, w.checkWayBack(now, f)...)
	}
	return actions
}

// endFailed ends an attempt by a fault of this side.
func endFailed(f *transport.Fault) []watchAction {
	return []watchAction{endAttempt{f, handoff.Failed{Code: f.Code, Device: f.Device, Offset: f.Offset, Text: f.Err.Error()}}}
}

func timedOut(format string, args ...any) *transport.Fault {
	return &transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf(format, args...)}
}

// checkWelcome bounds the wait for WELCOME.
func (w *watch) checkWelcome(now time.Time, f facts) []watchAction {
	if now.Sub(f.times.began) < w.limits.welcome {
		return nil
	}
	if f.lossCause != nil {
		return endFailed(&transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("%w within %v: %w", ErrNoWelcome, w.limits.welcome, f.lossCause)})
	}
	return endFailed(timedOut("%w within %v", ErrNoWelcome, w.limits.welcome))
}

// checkConnection bounds the wait for a destination that was lost. In doubt checkAnswer bounds it.
func (w *watch) checkConnection(now time.Time, f facts) []watchAction {
	moving := f.phase != handoff.SourceDeciding
	switch {
	case moving && !f.noLaneSince.IsZero() && now.Sub(f.noLaneSince) > w.limits.reconnect:
		return endFailed(&transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("no data lane could be dialled again for %v", migration.RoundTime(now.Sub(f.noLaneSince)))})
	case !f.lostAt.IsZero() && now.Sub(f.lostAt) >= w.limits.reconnect:
		return []watchAction{endAttempt{&transport.Fault{Code: transport.CodeNetwork,
			Err: fmt.Errorf("the destination was out of reach for %v: %w", w.limits.reconnect, f.lossCause)}, handoff.Unreachable{}}}
	}
	return nil
}

// checkSwitchover ends a switchover that lasts too long, or in which no byte moves. Before the
// pause of the guest it has no limit for a device.
func (w *watch) checkSwitchover(now time.Time, f facts) []watchAction {
	if f.times.paused.IsZero() {
		return nil
	}
	if f.moved != w.moved {
		w.moved, w.movedAt = f.moved, now
	}
	var fault *transport.Fault
	switch past := now.Sub(f.times.paused) >= w.limits.maxDowntime; {
	case f.plan == plan.Unpausing: // for resumeLimit at most
		return nil
	case past && f.plan == plan.Pausing:
		fault = timedOut("%w within %v", ErrNotPaused, w.limits.maxDowntime)
	case past:
		fault = timedOut("the destination is not ready: %w (%v)", ErrDowntime, w.limits.maxDowntime)
	case !f.times.stopped.IsZero() && now.Sub(w.movedAt) >= w.limits.stall:
		fault = timedOut("%w of %v while the guest was paused", ErrStalled, w.limits.stall)
	default:
		return nil
	}
	if f.phase == handoff.SourceTransfer && f.plan != plan.Pausing {
		fault.Device, fault.Offset = f.slowest, f.offset
	}
	return endFailed(fault)
}

// checkDecision bounds how long the guest is paused for the owner's decision. No byte moves
// meanwhile, and that is no stall.
func (w *watch) checkDecision(now time.Time, f facts) []watchAction {
	if now.Sub(f.times.paused) < w.limits.maxDowntime {
		return nil
	}
	return endFailed(timedOut("the switchover was not approved: %w (%v)", ErrDowntime, w.limits.maxDowntime))
}

// doubtWarnAfter is how long COMMIT may be unanswered before the user is warned.
const doubtWarnAfter = time.Second

// unreachableGrace is how long the source waits, after a cancel, for a destination that is out of
// reach.
const unreachableGrace = 5 * time.Second

// witnessPause is how long the source waits before it asks the witness: after COMMIT, and after
// each question.
const witnessPause = 2 * time.Second

// checkAnswer bounds the wait for the answer to COMMIT. No limit returns the devices to the source:
// only the destination may do that. A start may take longer than the pause before the first
// question to the witness. Then the destination has the register, and the source waits on.
func (w *watch) checkAnswer(now time.Time, f facts) (actions []watchAction) {
	waited := now.Sub(f.times.decided())
	if f.witness && waited > witnessPause && now.Sub(w.askedAt) > witnessPause {
		w.askedAt = now
		actions = append(actions, notifyHandoff{handoff.Overdue{}})
	}
	if waited > doubtWarnAfter && !w.warnedDoubt {
		w.warnedDoubt = true
		actions = append(actions, warnUser{text: "in doubt: the destination has not answered COMMIT yet"})
	}
	switch {
	case waited > w.answerLimit(now, waited, f):
		fault := f.refusal
		if fault == nil {
			fault = timedOut("the destination has not answered COMMIT for %v", migration.RoundTime(waited))
		}
		actions = append(actions, endAttempt{fault, handoff.Unreachable{}})
	case waited > w.limits.cancelAfter && !w.askedBack && !f.empty:
		w.askedBack = true
		actions = append(actions, notifyHandoff{handoff.Interrupt{}})
	}
	return actions
}

// answerLimit is how long the answer may take. After a cancel the source waits briefly for a
// destination that is out of reach.
func (w *watch) answerLimit(now time.Time, waited time.Duration, f facts) time.Duration {
	limit := cmp.Or(f.doubtLimit, plan.Unlimited)
	if !f.cancelledAt.IsZero() {
		patience := w.limits.stall
		if !f.lostAt.IsZero() {
			patience = unreachableGrace
		}
		limit = min(limit, waited-now.Sub(f.cancelledAt)+patience)
	}
	return limit
}

// backLimit is how long the way back may take after the last END. After that the source no longer
// tells the destination to discard its copy.
const backLimit = 30 * time.Second

// checkWayBack warns of a driver that is slow to return a device to RUNNING. It ends the wait for
// such a driver if the destination may hold a copy.
func (w *watch) checkWayBack(now time.Time, f facts) (actions []watchAction) {
	took := now.Sub(f.times.back)
	if !w.warnedSlowBack && took > joinLimit {
		w.warnedSlowBack = true
		actions = append(actions, warnUser{text: "the devices, or the guest, do not run again yet"})
	}
	if !f.sole || took <= backLimit {
		return actions
	}
	w.backTooLong = true
	actions = append(actions, warnUser{fmt.Sprintf("the devices do not run again after %v", backLimit), true})
	if f.phase == handoff.SourceHalting { // no device may run from now on
		return append(actions, notifyHandoff{handoff.Halted{Failed: true}})
	}
	return append(actions, notifyHandoff{handoff.Resumed{How: handoff.SomeRan}})
}

// checkDowntime warns, once, of a switchover whose expected downtime is over the limit, although
// its prediction was not: a driver takes unforeseeably long. The expected downtime is the elapsed
// time plus the prediction for the rest. The warning comes at the limit at the latest.
func (w *watch) checkDowntime(now time.Time, f facts) watchAction {
	t := f.times
	if w.warnedLate || f.predicted == nil || t.paused.IsZero() || !t.running.IsZero() || !t.back.IsZero() || f.predicted.Downtime.Took > w.limits.downtime {
		return nil
	}
	stage, took, predicted, next := t.currentStage(now, f.predicted.Prediction)
	expected := now.Sub(t.paused) + max(0, predicted.Took-took) + next.Took
	if expected < w.limits.downtime {
		return nil
	}
	w.warnedLate = true
	about := "about"
	if !predicted.Known || !next.Known {
		about = "at least about"
	}
	return warnUser{text: fmt.Sprintf("the downtime is expected to be %s %v, over the limit of %v: %s has taken %v so far, %s was predicted",
		about, migration.RoundTime(expected), w.limits.downtime, stage, migration.RoundTime(took), describeSpan(predicted))}
}

// describeSpan is the prediction for a stage, as text.
func describeSpan(s migration.Span) string {
	switch {
	case s.Took <= 0:
		return "and nothing"
	case !s.Known:
		return "at least " + migration.RoundTime(s.Took).String()
	}
	return migration.RoundTime(s.Took).String()
}
