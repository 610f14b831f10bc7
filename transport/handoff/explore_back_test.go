package handoff

import (
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// holds notes whether the destination holds a complete copy when the source goes back. A
// source that has asked for its devices by CANCEL may be answered while it does, and one
// that has said ABORT had them running then (aborts).
func (w *world) holds(st state) state {
	there, a := w.dests.vals[st.d.machine], w.sources.vals[st.s.machine].Attempt
	recorded := w.entries.vals[st.d.log].Record == Ready && !w.sent(st, &wire.Cancel{Attempt: a}) && !w.sent(st, &wire.Abort{Attempt: a})
	if recorded && !st.lost && st.s.dev != running && there.Phase == DestReady && there.Attempt == a && st.d.dev == loaded && uint64(st.copy) == a.Epoch {
		st.held = true
	}
	return st
}

// aborts holds ABORT to rule R9.
func (w *world) aborts(st state, m messageKey) {
	if m.typ == wire.TypeAbort && st.s.dev != running && w.sent(st, &wire.End{Attempt: attempt(m.epoch)}) {
		w.violated(st, "I3b: ABORT of attempt %d is sent after its END, and the source does not run", m.epoch)
	}
}

// plainer forgets of the way back what no further step depends on.
func (w *world) plainer(s Source) Source {
	if s.Because.Code != 0 {
		s.Because = Failed{Code: transport.CodeInternal} // one reason is as good as another
	}
	if !w.rescues { // nothing is decided by these but whether a person may
		s.Torn, s.Gone = false, false
	}
	if s.Phase == SourceEnded {
		s.Sole, s.Torn, s.Gone, s.Because = false, false, false, Failed{}
	}
	return s
}

// halts takes the devices to STOP, or some of them. No stopped device runs by that,
// so that where it does not fail it is one with its result: there are states enough.
func (w *world) halts(st state) {
	if !w.rescues {
		w.sourceTakes(st, plain(Halted{}))
		return
	}
	failing := st
	failing.s.result = uint8(plain(Halted{Failed: true}))
	if st.s.dev != running {
		w.visit(failing, "S", "fails to halt its devices", 0)
	}
	st.s.result = uint8(plain(Halted{}))
	w.visit(st, "S", "halts its devices", 0)
}

// sourceTakesTooLong is the watch, which ends a way back that takes too long, if the
// destination may hold a copy. The devices may come to their end later. What else the watches
// say comes at any time: see surprises, destSurprises and Overdue.
func (w *world) sourceTakesTooLong(st state) {
	s := w.sources.vals[st.s.machine]
	switch {
	case s.Sole && s.Phase == SourceHalting:
		w.sourceTakes(st, plain(Halted{Failed: true}))
	case s.Sole && s.Phase == SourceResuming:
		w.sourceTakes(st, plain(Resumed{SomeRan}))
	}
}

// answersLate is the end of a resume that was not there when it was looked for. No engine
// hears of it once the attempt has ended.
func (w *world) answersLate(st state) {
	for _, end := range []struct {
		dev  device
		how  Return
		what string
	}{{running, Back, "resumes late"}, {torn, SomeRan, "fails late to resume all devices"}, {stopped, NoneRan, "fails late to resume any device"}} {
		next := st
		next.s.dev, next.held = end.dev, st.held && end.dev != running
		if w.sources.vals[st.s.machine].Phase == SourceResuming {
			next.s.result = uint8(plain(Resumed{end.how}))
		}
		w.visit(next, "S", end.what, 0)
	}
}

// sourceRescues is a person who has the destination run the copy that it says it holds,
// since the devices here could not be resumed. What the destination says may be old.
func (w *world) sourceRescues(st state) {
	decided, ok := w.rescue(w.entries.vals[st.s.log])
	if !ok {
		return
	}
	for id, m := range w.messages.vals {
		if st.net&(1<<id) == 0 || m.typ != wire.TypeReady || m.epoch != decided.Attempt.Epoch {
			continue
		}
		next, there := st, decided
		there.PeerJournal, there.Digest = m.journal, worldDigest
		next.s.log = w.entries.id(there)
		w.visit(w.sourceRestarted(next), "S", "is told to commit there", 0)
	}
}
