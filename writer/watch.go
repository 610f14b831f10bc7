package writer

import (
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
)

// watch decides when this side has waited too long: for a lost or silent source, for bytes that the
// source reports as remaining, for devices that write nothing, for COMMIT, or for a reset. It is
// pure: tick takes the time and the facts, and returns actions. It knows no device, journal or
// connection, and sends neither READY nor DECLINED.
type watch struct {
	limits watchLimits

	arrived     uint64    // bytes that had come
	silentSince time.Time // since when no byte came, although the source reports remaining ones
	applied     uint64    // bytes that were applied
	appliedAt   time.Time // when the last of them was applied, after the last END
	readyAt     time.Time // since when there is a complete copy, zero without one

	warnedReady   bool // the user was warned of a copy that waits
	warnedReset   bool // and of a reset that takes long
	held          bool // a complete copy was reported as held, for a source that is out of reach
	warnedWitness bool // the user was warned of a witness that does not answer
}

// watchLimits are the limits of Options.
type watchLimits struct {
	reconnect  time.Duration
	stall      time.Duration
	readyAlarm time.Duration
	readyLease time.Duration // 0 is none
}

// facts are the engine's facts. A zero time has not come.
type facts struct {
	phase       handoff.DestPhase
	times       *timing
	asksWitness bool // COMMIT has come, and waits for the witness

	connected    bool
	local        bool      // the source is a process of this host
	lostAt       time.Time // when the control lane was lost
	heardAt      time.Time // when the last message of the source came
	heardWelcome bool      // the source is known to have received WELCOME

	dialled int    // data lanes
	missing bool   // a lane is not dialled yet, or is lost
	ended   bool   // every END has come
	arrived uint64 // bytes so far
	applied uint64
	owes    bool // the source reports remaining bytes, and no device has any to write

	holdAsked bool // the user wants to end once the copy is reported as held
}

// watchAction is an action of the watch.
//
//sumtype:decl
type watchAction interface{ isWatchAction() }

// The actions of the watch.
type (
	// endAttempt ends the attempt by a fault, and an event for the hand-off. sourceAlone says that
	// only the source is the cause: the next source may come.
	endAttempt struct {
		fault       *transport.Fault
		event       handoff.DestEvent
		sourceAlone bool
	}
	// loseConnection treats the source as lost.
	loseConnection struct{ err error }
	// endRunning ends the attempt with running devices, although the source may not know that they
	// run.
	endRunning struct{ warning string }
	// warnUser emits a warning.
	warnUser struct{ text string }
	// reportHeld reports a complete copy that stays.
	reportHeld struct{}
	// holdCopy ends Receive, and holds the complete copy.
	holdCopy struct{}
)

func (endAttempt) isWatchAction()     {}
func (loseConnection) isWatchAction() {}
func (endRunning) isWatchAction()     {}
func (warnUser) isWatchAction()       {}
func (reportHeld) isWatchAction()     {}
func (holdCopy) isWatchAction()       {}

// tick is the whole behaviour of the machine.
func (w *watch) tick(now time.Time, f facts) []watchAction {
	if f.phase != handoff.DestReady {
		w.readyAt, w.warnedReady, w.held = time.Time{}, false, false
	}
	if actions := w.checkConnection(now, f); actions != nil {
		return actions
	}
	switch f.phase {
	case handoff.DestReceiving:
		if actions := w.checkSource(now, f); actions != nil {
			return actions
		}
		return w.checkLoad(now, f)
	case handoff.DestReady:
		return w.checkReady(now, f)
	case handoff.DestResetting:
		if !w.warnedReset && now.Sub(f.times.resetting) > joinLimit {
			w.warnedReset = true
			return []watchAction{warnUser{"the devices are not reset yet: a driver is slow"}}
		}
	}
	return nil
}

func timedOut(format string, args ...any) *transport.Fault {
	return &transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf(format, args...)}
}

// endFailed ends an attempt by a fault of this side.
func endFailed(f *transport.Fault) endAttempt { return endAttempt{fault: f, event: failedBy(f)} }

// checkConnection bounds the wait for a source that was lost. It treats a source as lost that is
// connected and silent before its streams have ended. checkReady bounds the wait with a complete
// copy.
func (w *watch) checkConnection(now time.Time, f facts) []watchAction {
	if f.lostAt.IsZero() {
		quiet := now.Sub(f.heardAt)
		if f.phase == handoff.DestReceiving && !f.ended && f.connected && !f.local && quiet > wire.SilenceLimit {
			return []watchAction{loseConnection{fmt.Errorf("%w: the source is connected, and has sent nothing for %v", transport.ErrLost, quiet.Round(time.Second))}}
		}
		return nil
	}
	waited := now.Sub(f.lostAt)
	switch f.phase {
	case handoff.DestReceiving:
		limit := w.limits.reconnect
		if !f.heardWelcome { // it may not have received WELCOME, and sends HELLO again
			limit = min(limit, wire.LanesTimeout)
		}
		if waited > limit {
			return []watchAction{endAttempt{&transport.Fault{Code: transport.CodeNetwork,
				Err: fmt.Errorf("%w, and the source has not reconnected for %v", transport.ErrLost, limit)}, handoff.Unreachable{}, !f.heardWelcome}}
		}
	case handoff.DestRunning:
		if waited > w.limits.reconnect {
			return []watchAction{endRunning{fmt.Sprintf("the devices run here, and the source, which has not reconnected for %v, may not know it", w.limits.reconnect)}}
		}
	}
	return nil
}

// checkSource ends the attempt of a source that occupies this destination and sends nothing: it has
// opened no data lane, or its estimate has remaining bytes. A source without remaining bytes may
// wait for its guest. While a device here has a chunk to write, or a lane is lost, the source may
// have to wait.
func (w *watch) checkSource(now time.Time, f facts) []watchAction {
	if !f.lostAt.IsZero() {
		w.silentSince = time.Time{}
		return nil
	}
	if f.dialled == 0 {
		if now.Sub(f.times.welcomed) > wire.LanesTimeout {
			return []watchAction{endSilentSource(timedOut("the source has opened no data lane for %v", wire.LanesTimeout))}
		}
		return nil
	}
	if f.arrived != w.arrived || !f.owes || w.silentSince.IsZero() {
		w.arrived, w.silentSince = f.arrived, now
	}
	if limit := w.stallLimit(f); now.Sub(w.silentSince) > limit {
		return []watchAction{endSilentSource(timedOut("the source reports remaining bytes, and has sent none for %v", limit))}
	}
	return nil
}

// endSilentSource ends the attempt of a source that sends nothing. If it never sent a byte, the
// next source may come.
func endSilentSource(f *transport.Fault) endAttempt { return endAttempt{f, failedBy(f), true} }

// stallLimit is how long no byte may move. A lost lane is no fault of a device, nor of the source,
// so it extends the limit.
func (w *watch) stallLimit(f facts) time.Duration {
	if f.missing {
		return w.limits.stall + w.limits.reconnect
	}
	return w.limits.stall
}

// checkLoad ends the attempt if devices that have all bytes write nothing.
func (w *watch) checkLoad(now time.Time, f facts) []watchAction {
	if !f.ended {
		return nil
	}
	if f.applied != w.applied || w.appliedAt.IsZero() || !f.lostAt.IsZero() {
		w.applied, w.appliedAt = f.applied, now
	}
	if limit := w.stallLimit(f); now.Sub(w.appliedAt) > limit {
		return []watchAction{endFailed(timedOut("%w of %v after the last END", ErrStalled, limit))}
	}
	return nil
}

// wayBackLimit is how long a connected source may take to return its devices: longer than its own
// limit for that.
const wayBackLimit = 35 * time.Second

// checkReady warns of a copy that waits for COMMIT, and ends the wait if a limit says so. It
// reports a copy that stays although the user has cancelled, because the source does not answer.
// While COMMIT waits for the witness no limit counts.
func (w *watch) checkReady(now time.Time, f facts) (actions []watchAction) {
	if f.asksWitness {
		w.readyAt, w.warnedReady = time.Time{}, false
	} else if w.readyAt.IsZero() {
		w.readyAt = now
	}
	switch waited := now.Sub(w.readyAt); {
	case f.asksWitness:
	case w.limits.readyLease > 0 && waited >= w.limits.readyLease:
		return []watchAction{endFailed(timedOut("%w of %v: the complete copy is discarded", ErrReadyExpired, w.limits.readyLease))}
	case waited >= w.limits.readyAlarm && !w.warnedReady:
		w.warnedReady = true
		actions = append(actions, warnUser{fmt.Sprintf("a complete copy has waited for COMMIT for %v", w.limits.readyAlarm)})
	}
	cancelled := f.times.cancelled
	held := !cancelled.IsZero() && (!f.connected || now.Sub(cancelled) > wayBackLimit)
	if held && !w.held {
		actions = append(actions, reportHeld{})
	}
	if w.held = held; held && f.holdAsked {
		actions = append(actions, holdCopy{})
	}
	return actions
}
