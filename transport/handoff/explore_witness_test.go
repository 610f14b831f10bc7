package handoff

import (
	"github.com/migpipe/migpipe/internal/wire"
)

// asks tries every end of a question to an attempt's register: the first that gets
// through decides, and the answer may be lost.
func (w *world) asks(st state, who string, me Side, epoch uint64, of func(*state) *side) {
	of(&st).asked = uint8(plain(Witnessed{}))
	w.visit(st, who, "cannot reach the witness", 0)
	winner := st.register(epoch, me)
	w.visit(st, who, "does not hear the witness", 0)
	of(&st).asked = uint8(plain(Witnessed{winner}))
	w.visit(st, who, "hears that it is the "+winner.String(), 0)
}

// register gives an attempt to the side that asks first.
func (st *state) register(epoch uint64, me Side) Side {
	shift := 2 * (epoch - 1)
	if st.won>>shift&3 == 0 {
		st.won |= uint8(me) << shift
	}
	return Side(st.won >> shift & 3)
}

// sourceForced is a person who has the devices run here, after the destination was
// kept from its own: it has lost them; or it is found in READY, and nothing of what
// was said before reaches it any more.
func (w *world) sourceForced(st state) {
	last := w.entries.vals[st.s.log]
	forced, ok := Force(last, "")
	if !ok {
		return
	}
	st.s.log, st.held = w.entries.id(forced), false
	st = w.sourceRestarted(st)
	there := w.entries.vals[st.d.log]
	if there.Record == Ready && st.d.dev == loaded {
		held := st
		held.net &^= 1 << w.message(&wire.Commit{Attempt: last.Attempt, Journal: last.PeerJournal})
		d, actions := w.restartDest(there, Whole)
		held.d.machine, held.d.todo, held.d.result, held.d.asked = w.dests.id(d), w.list(mixed(actions)), 0, 0
		w.visit(held, "S", "is forced, the destination cut off", 0)
	}
	if st.d.dev == loaded || st.d.dev == running {
		st.d.dev, st.copy, st.ran = empty, 0, false
		if there.Record == Accept || there.Record == Done {
			st.d.dev = dropped
		}
	}
	d, actions := w.restartDest(there, Nothing)
	st.d.machine, st.d.todo, st.d.result, st.d.asked = w.dests.id(d), w.list(mixed(actions)), 0, 0
	w.visit(st, "S", "is forced, the destination reset", 0)
}

// destForced is a person who has the devices run here, after the source was kept
// from its own. A side in doubt may restart at any time: it holds its devices, and
// all that was ever said may reach it.
func (w *world) destForced(st state, last Entry) {
	if w.entries.vals[st.s.log].Record != Commit || st.d.dev == running || !w.forceD(w, &st, last) {
		return
	}
	forced, ok := Force(last, "")
	if !ok {
		return
	}
	if st.d.dev == loaded {
		st.copy = uint8(forced.Attempt.Epoch)
	}
	st.d.log, st.d.result, st.d.asked = w.entries.id(forced), 0, 0
	w.destRestarts(w.sourceRestarted(st), forced)
}

// wins asks the register as the destination does before it accepts.
func (w *world) wins(st *state, last Entry) bool {
	return last.Witness == 0 || st.register(last.Attempt.Epoch, DestSide) == DestSide
}
