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

// watch decides when the engine has waited too long: for WELCOME, for a lost connection, for
// the switchover, for the answer to COMMIT, or for devices on their way back. It is pure: tick
// is given the time and the facts, and answers with what to do. It knows no device, journal or
// connection, and sends neither COMMIT nor ABORT.
type watch struct {
	limits watchLimits

	moved   uint64    // bytes that were read and applied
	movedAt time.Time // when the last of them was, or when all devices had stopped

	warnedLate     bool      // the user was warned of a downtime over the limit
	warnedSlowBack bool      // and of devices that do not come back
	warnedDoubt    bool      // and of a COMMIT that is not answered
	askedBack      bool      // the destination was asked for the devices
	askedAt        time.Time // when the witness was, last
	backTooLong    bool      // the wait for the way back has ended
	warnedWitness  bool      // the user was warned of a witness that does not answer
}

// watchLimits are those of Options.
type watchLimits struct {
	welcome     time.Duration
	reconnect   time.Duration
	downtime    time.Duration // that is wanted
	maxDowntime time.Duration // that ends the attempt
	stall       time.Duration
	cancelAfter time.Duration
}

// facts are what the engine knows. A time that is zero has not come.
type facts struct {
	phase handoff.SourcePhase
	plan  plan.Phase
	times *timing

	predicted *migration.Forecast // of the switchover under way, nil before
	moved     uint64              // bytes that were read and applied so far
	slowest   string              // a device whose stream has not ended, and how far it is
	offset    uint64

	noLaneSince time.Time        // when the last data lane was lost
	lostAt      time.Time        // when the control lane was lost
	lossCause   error            // and by what
	refusal     *transport.Fault // what a destination says that cannot answer COMMIT

	doubtLimit  time.Duration // for the answer to COMMIT, 0 is none
	cancelledAt time.Time
	witness     bool // there is one
	empty       bool // the devices hold nothing of what they held at COMMIT
	sole        bool // the destination may have the only copy
}

// watchAction is what the watch answers with.
//
//sumtype:decl
type watchAction interface{ isWatchAction() }

// The actions of the watch.
type (
	// endAttempt ends it for a reason, with what the hand-off is to hear.
	endAttempt struct {
		fault *transport.Fault
		event handoff.SourceEvent
	}
	// tellHandoff has the hand-off hear of something.
	notifyHandoff struct{ event handoff.SourceEvent }
	// warnUser emits a warning; lasting ones are in the report too.
	warnUser struct {
		text    string
		lasting bool
	}
)

func (endAttempt) isWatchAction()    {}
func (notifyHandoff) isWatchAction() {}
func (warnUser) isWatchAction()      {}

// begin says that all devices have stopped.
func (w *watch) noteStopped(now time.Time) { w.movedAt = now }

// tick is the whole of the machine's behaviour.
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

// failed ends an attempt by a fault of this side.
func endFailed(f *transport.Fault) []watchAction {
	return []watchAction{endAttempt{f, handoff.Failed{Code: f.Code, Device: f.Device, Offset: f.Offset, Text: f.Err.Error()}}}
}

func timedOut(format string, args ...any) *transport.Fault {
	return &transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf(format, args...)}
}

// welcome bounds the wait for WELCOME.
func (w *watch) checkWelcome(now time.Time, f facts) []watchAction {
	if now.Sub(f.times.began) < w.limits.welcome {
		return nil
	}
	if f.lossCause != nil {
		return endFailed(&transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("%w within %v: %w", ErrNoWelcome, w.limits.welcome, f.lossCause)})
	}
	return endFailed(timedOut("%w within %v", ErrNoWelcome, w.limits.welcome))
}

// connection bounds the wait for a destination that was lost. In doubt, answer does.
func (w *watch) checkConnection(now time.Time, f facts) []watchAction {
	moving := f.phase != handoff.SourceDeciding
	switch {
	case moving && !f.noLaneSince.IsZero() && now.Sub(f.noLaneSince) > w.limits.reconnect:
		return endFailed(&transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("no data lane could be opened again for %v", migration.RoundTime(now.Sub(f.noLaneSince)))})
	case !f.lostAt.IsZero() && now.Sub(f.lostAt) >= w.limits.reconnect:
		return []watchAction{endAttempt{&transport.Fault{Code: transport.CodeNetwork,
			Err: fmt.Errorf("the destination was not reached again for %v: %w", w.limits.reconnect, f.lossCause)}, handoff.Unreachable{}}}
	}
	return nil
}

// switchover ends one that lasts too long, and one in which nothing moves any more. What a
// device does before the guest is paused is its guest's business.
func (w *watch) checkSwitchover(now time.Time, f facts) []watchAction {
	if f.times.paused.IsZero() {
		return nil
	}
	if f.moved != w.moved {
		w.moved, w.movedAt = f.moved, now
	}
	var fault *transport.Fault
	switch past := now.Sub(f.times.paused) >= w.limits.maxDowntime; {
	case f.plan == plan.Unpausing: // for resumeLimit, at most
		return nil
	case past && f.plan == plan.Pausing:
		fault = timedOut("%w for %v", ErrNotPaused, w.limits.maxDowntime)
	case past:
		fault = timedOut("the destination is not ready: %w for %v", ErrDowntime, w.limits.maxDowntime)
	case !f.times.stopped.IsZero() && now.Sub(w.movedAt) >= w.limits.stall:
		fault = timedOut("%w for %v while the guest stood still", ErrStalled, w.limits.stall)
	default:
		return nil
	}
	if f.phase == handoff.SourceTransfer && f.plan != plan.Pausing {
		fault.Device, fault.Offset = f.slowest, f.offset
	}
	return endFailed(fault)
}

// decision bounds how long the guest stands still for the owner's word. That no byte moves
// meanwhile is no stall.
func (w *watch) checkDecision(now time.Time, f facts) []watchAction {
	if now.Sub(f.times.paused) < w.limits.maxDowntime {
		return nil
	}
	return endFailed(timedOut("the switchover was not approved: %w for %v", ErrDowntime, w.limits.maxDowntime))
}

// doubtTold is when the user is told that COMMIT is not answered.
const doubtWarnAfter = time.Second

// lastTry is how long a user who has cancelled waits for a destination that is out of reach.
const unreachableGrace = 5 * time.Second

// witnessPause is how long the witness is left alone: after COMMIT, and after each question.
const witnessPause = 2 * time.Second

// answer bounds the wait for the answer to COMMIT. Nothing of it takes the devices back: that
// is the destination's to say. A start may take longer than the pause before the witness is
// asked: then the destination has the register, and the source waits on.
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

// answerLimit is how long the answer may take. A user who has cancelled does not wait for long
// where the destination is out of reach.
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

// backLimit is how long the way back may take after the last END: then the destination is
// not told any more to discard its copy.
const backLimit = 30 * time.Second

// wayBack warns of a driver that takes its time to give a device back, and ends the wait for
// it where the destination may hold a copy.
func (w *watch) checkWayBack(now time.Time, f facts) (actions []watchAction) {
	took := now.Sub(f.times.back)
	if !w.warnedSlowBack && took > joinLimit {
		w.warnedSlowBack = true
		actions = append(actions, warnUser{text: "the devices, or the guest, have not come back yet"})
	}
	if !f.sole || took <= backLimit {
		return actions
	}
	w.backTooLong = true
	actions = append(actions, warnUser{fmt.Sprintf("the devices have not come back for %v", backLimit), true})
	if f.phase == handoff.SourceHalting { // none is told to run any more
		return append(actions, notifyHandoff{handoff.Halted{Failed: true}})
	}
	return append(actions, notifyHandoff{handoff.Resumed{How: handoff.SomeRan}})
}

// overdue warns, once, of a switchover that is expected to be over the limit although it was
// not before: some driver takes its time for what nobody could see. It does so as soon as what
// the switchover took so far, and what was predicted of the rest, show it: at the limit at the
// latest.
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

// foreseen says what was predicted of a stage.
func describeSpan(s migration.Span) string {
	switch {
	case s.Took <= 0:
		return "and nothing"
	case !s.Known:
		return "at least " + migration.RoundTime(s.Took).String()
	}
	return migration.RoundTime(s.Took).String()
}
