package handoff

import (
	"slices"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// fromDest and fromSource are the messages that each side may receive.
func fromDest(t wire.MessageType) bool {
	switch t {
	case wire.TypeWelcome, wire.TypeReady, wire.TypeRunning, wire.TypeDeclined, wire.TypeNotStarted, wire.TypeStatus:
		return true
	}
	return false
}

func fromSource(t wire.MessageType) bool {
	switch t {
	case wire.TypeCommit, wire.TypeCancel, wire.TypeAbort, wire.TypeFin:
		return true
	}
	return false
}

// arriving calls f for every message in the network that this side may receive.
func (w *world) arriving(st state, may func(wire.MessageType) bool, f func(st state, ev int)) {
	for id := range len(w.messages.vals) {
		if st.net&(1<<id) != 0 && may(w.messages.vals[id].typ) {
			f(st, eventMessage+id)
		}
	}
}

func (w *world) sent(st state, m wire.Message) bool { return st.net&(1<<w.message(m)) != 0 }

// surprises come at any time.
func (w *world) surprises() []Event {
	return []Event{Unreachable{}, Reached{}, Interrupt{}, Failed{Code: transport.CodeDevice}}
}

func (w *world) sourceMoves(st state) {
	if st.s.dev == late {
		w.answersLate(st)
	} else { // else the process ends when its drivers have answered
		w.sourceCrashes(st)
	}
	if st.s.todo != 0 {
		w.sourceActs(st)
		return
	}
	if st.s.result != 0 {
		next := st
		next.s.result = 0
		w.sourceTakes(next, int(st.s.result))
	}
	if st.s.asked != 0 {
		next := st
		next.s.asked = 0
		w.sourceTakes(next, int(st.s.asked))
	}
	w.arriving(st, fromDest, w.sourceTakes)
	for _, ev := range w.surprises() {
		w.sourceTakes(st, plain(ev))
	}
	if w.witnessS != 0 {
		w.sourceTakes(st, plain(Overdue{}))
	}
	w.sourceTakesTooLong(st)
	w.sourceLives(st)
}

// sourceLives is what the source's engine does while nothing goes wrong.
func (w *world) sourceLives(st state) {
	s := w.sources.vals[st.s.machine]
	last := w.entries.vals[st.s.log]
	switch {
	case s.Phase == SourceIdle:
		w.sourceTakes(st, plain(Begin{}))
	case s.Phase == SourceTransfer && st.s.dev == running:
		st.s.dev = stopped
		w.visit(st, "S", "stops the guest", 0)
	case s.Phase == SourceTransfer:
		st.net |= 1 << w.message(&wire.End{Attempt: s.Attempt}) // stands for the whole stream
		w.sourceTakes(st, plain(Drained{worldDigest}))
	case s.Phase == SourceEnded && (last.Record == Forced || last.Record == Owner && !last.Sole && !w.forces) && st.s.dev == running && s.Attempt.Epoch < uint64(w.epochs):
		st.s.machine, st.s.asked = w.sources.id(w.newSource(s.Attempt.Epoch+1)), 0
		w.visit(st, "S", "tries again", 0)
	}
}

func (w *world) sourceCrashes(st state) {
	w.visit(w.sourceRestarted(st), "S", "crashes and starts again", 0)
	if w.reboots && st.s.dev != gone {
		st.s.dev = wiped
		w.visit(w.sourceRestarted(st), "S", "dies with its host, and starts again", 0)
	}
	if w.forces {
		w.sourceForced(st)
	}
	if w.rescues {
		w.sourceRescues(st)
	}
}

func (w *world) sourceRestarted(st state) state {
	s, actions := w.restartSource(w.entries.vals[st.s.log])
	s.Empty = s.Empty || s.Phase == SourceDoubt && st.s.dev == wiped
	st.s.machine, st.s.todo, st.s.result, st.s.asked = w.sources.id(w.plainer(s)), w.list(mixed(actions)), 0, 0
	return st
}

// sourceActs takes the first action of the source's list.
func (w *world) sourceActs(st state) {
	a, rest := w.head(st.s.todo)
	failing := st
	st.s.todo = rest
	switch a.kind {
	case "handoff.Append":
		w.appends(failing, w.entries.id(a.entry), func(st *state) *side { return &st.s }, w.sourceTakes)
		st.s.log = w.entries.id(a.entry)
	case "handoff.Send":
		w.recorded(st, st.s.log, a.message)
		w.aborts(st, w.messages.vals[a.message])
		if st.s.dev == wiped && w.messages.vals[a.message].typ == wire.TypeCancel {
			w.violated(st, "I3h: a source whose devices are gone asks for the only copy back")
		}
		st.net |= 1 << a.message
		if w.messages.vals[a.message].typ == wire.TypeCancel && !w.entries.vals[st.s.log].Sole {
			st.held = false // it is asked for its copy's end, by a source that can run
		}
	case "handoff.SendHello":
		epoch := w.sources.vals[st.s.machine].Attempt.Epoch
		st.net |= 1 << w.message(&wire.Hello{Attempt: attempt(epoch)})
	case "handoff.Halt":
		w.halts(w.holds(st))
		return
	case "handoff.Resume":
		if st.s.dev == stopped {
			st = w.holds(st)
		}
		w.resumes(st)
		return
	case "handoff.AskWitness":
		w.asks(st, "S", SourceSide, w.sources.vals[st.s.machine].Attempt.Epoch, func(st *state) *side { return &st.s })
		return
	case "handoff.AskApproval":
		w.asksOwner(st)
		return
	case "handoff.Release":
		if !st.ran {
			w.violated(st, "I3: the source's copy is released before the destination ran")
		}
		st.s.dev = gone
	case "handoff.Finish":
		w.sourceFinishes(st, a.outcome)
	}
	w.visit(st, "S", a.kind, 0)
}

// asksOwner tries a yes and silence; a no is among the surprises.
func (w *world) asksOwner(st state) {
	w.visit(st, "S", "does not hear its owner", 0)
	st.yes |= 1 << w.sources.vals[st.s.machine].Attempt.Epoch
	st.s.asked = uint8(plain(Approved{}))
	w.visit(st, "S", "has its owner's yes", 0)
}

// appends makes the states in which the journal refuses: with the entry lost,
// and with the entry kept.
func (w *world) appends(st state, entry uint16, of func(*state) *side, takes func(state, int)) {
	if !w.journalFails {
		return
	}
	of(&st).todo = 0
	takes(st, plain(Unrecorded{}))
	of(&st).log = entry
	takes(st, plain(Unrecorded{}))
}

func (w *world) resumes(st state) {
	then := func(st state, what string, how Return) {
		st.s.result = uint8(plain(Resumed{how}))
		w.visit(st, "S", what, 0)
	}
	if st.s.dev == stopped || st.s.dev == wiped || st.s.dev == torn {
		then(st, "fails to resume", SomeRan)
	}
	if st.s.dev == wiped {
		return
	}
	if w.rescues && st.s.dev == stopped {
		then(st, "fails to resume any device", NoneRan)
	}
	if st.ran {
		w.violated(st, "I2: the source runs after the destination did")
	}
	if st.s.dev == gone {
		w.violated(st, "the source runs devices that it has released")
	}
	if w.rescues && st.s.dev != running {
		slow := st
		slow.s.dev = late
		w.visit(slow, "S", "is still resuming", 0)
		some := st
		some.s.dev = torn
		then(some, "fails to resume all devices", SomeRan)
	}
	st.s.dev, st.held = running, false
	if w.rescues {
		then(st, "resumes, and does not hear the guest", Unheard)
	}
	then(st, "resumes", Back)
}

func (w *world) sourceFinishes(st state, o migration.Outcome) {
	switch {
	case o == migration.Committed && !st.ran:
		w.violated(st, "the source reports committed, and the destination never ran")
	case o == migration.Aborted && st.s.dev != running:
		w.violated(st, "the source reports aborted, and does not run")
	}
}

func (w *world) destMoves(st state) {
	w.destCrashes(st)
	if st.d.todo != 0 {
		w.destActs(st)
		return
	}
	if st.d.result != 0 {
		next := st
		next.d.result, next.held = 0, false
		w.destTakes(next, int(st.d.result))
	}
	if st.d.asked != 0 {
		next := st
		next.d.asked, next.held = 0, false
		w.destTakes(next, int(st.d.asked))
	}
	w.arriving(st, fromSource, w.destTakes)
	for _, ev := range w.destSurprises(st) {
		next := st
		if _, fails := ev.(Failed); fails {
			next.held = false // what it drops for a reason of its own is not the source's doing
		}
		w.destTakes(next, plain(ev))
	}
	w.destLives(st)
}

// destSurprises are fewer when the copy is complete: it fails by the end of a lease alone,
// whose user knows what that may cost.
func (w *world) destSurprises(st state) []Event {
	ready := w.dests.vals[st.d.machine].Phase == DestReady
	list := slices.DeleteFunc(w.surprises(), func(ev Event) bool {
		return ready && (ev == (Interrupt{}) && !w.cancels || ev == (Failed{Code: transport.CodeDevice}) && w.reboots)
	})
	if w.cancels {
		list = append(list, Leave{})
	}
	return list
}

func (w *world) destLives(st state) {
	d := w.dests.vals[st.d.machine]
	for e := range uint64(w.epochs) {
		if w.sent(st, &wire.Hello{Attempt: attempt(e + 1)}) {
			w.destTakes(st, plain(Offered{attempt(e + 1), w.witnessD}))
			w.destTakes(st, plain(Refused{Attempt: attempt(e + 1)}))
			if w.epochs == 1 && w.entries.vals[st.d.log].Record == None { // states enough, else
				w.destTakes(st, plain(Refused{Attempt: attempt(e + 1), NoRecord: true}))
			}
		}
	}
	if d.Phase != DestReceiving {
		return
	}
	if w.sent(st, &wire.End{Attempt: d.Attempt}) {
		st.d.dev, st.copy = loaded, uint8(d.Attempt.Epoch)
		w.destTakes(st, plain(Loaded{worldDigest}))
	}
}

// destCrashes also loses what is half loaded. A complete copy survives if
// another process holds the devices; then the agent may find it and continue.
func (w *world) destCrashes(st state) {
	last := w.entries.vals[st.d.log]
	if w.amnesia && !st.lost {
		w.destForgets(st)
	}
	if w.forces {
		w.destForced(st, last)
	}
	st.d.result, st.d.asked, st.held = 0, 0, false
	w.destRestarts(st, last)
	if st.d.dev == loaded { // its process was all that kept it
		st.d.dev, st.copy = empty, 0
		if last.Record == Accept {
			st.d.dev = dropped
		}
		w.destRestarts(st, last)
	}
}

func (w *world) destRestarts(st state, last Entry) {
	for _, h := range w.holdings(st, last) {
		d, actions := w.restartDest(last, h)
		next := st
		if st.d.dev == loaded && (h == Nothing || last.Record == Open) { // a copy that neither a process nor READY vouches for is none
			next.d.dev, next.copy = empty, 0
		}
		next.d.machine, next.d.todo = w.dests.id(d), w.list(mixed(actions))
		w.visit(next, "D", [...]string{Nothing: "crashes and starts again", Whole: "crashes and finds its copy", Executing: "crashes and runs on"}[h], 0)
	}
}

// holdings is what a destination may believe of its devices: what they hold or, of a
// copy that was not accepted, that it is unknown.
func (w *world) holdings(st state, last Entry) []Holding {
	switch {
	case st.d.dev == running:
		return []Holding{Executing}
	case st.d.dev == loaded && uint64(st.copy) == last.Attempt.Epoch && (last.Record == Accept || last.Record == Forced):
		return []Holding{Whole}
	case st.d.dev == loaded && uint64(st.copy) == last.Attempt.Epoch:
		return []Holding{Whole, Nothing}
	}
	return []Holding{Nothing}
}

// destForgets is a host that restarts with an empty disk.
func (w *world) destForgets(st state) {
	st.lost, st.held = true, false
	st.d = side{machine: w.dests.id(NewDest(otherJournal)), log: w.entries.id(Entry{Journal: otherJournal}), dev: empty}
	st.copy = 0
	w.visit(st, "D", "loses its journal", 0)
}

func (w *world) destActs(st state) {
	a, rest := w.head(st.d.todo)
	failing := st
	st.d.todo = rest
	d := w.dests.vals[st.d.machine]
	switch a.kind {
	case "handoff.Append":
		if a.entry.Record == Lost && st.d.dev != dropped {
			w.violated(st, "I3: what was accepted is lost, and no start has failed")
		}
		w.appends(failing, w.entries.id(a.entry), func(st *state) *side { return &st.d }, w.destTakes)
		st.d.log = w.entries.id(a.entry)
	case "handoff.Send":
		w.recorded(st, st.d.log, a.message)
		st.net |= 1 << a.message
	case "handoff.SendWelcome":
		st.net |= 1 << w.message(&wire.Welcome{Attempt: d.Attempt, Journal: d.Journal})
	case "handoff.Start":
		w.starts(st, d)
		return
	case "handoff.AskWitness":
		w.asks(st, "D", DestSide, d.Attempt.Epoch, func(st *state) *side { return &st.d })
		return
	case "handoff.Reset":
		w.resets(st)
		return
	case "handoff.Finish":
		w.destFinishes(st, a.outcome)
	}
	w.visit(st, "D", a.kind, 0)
}

// starts tries every end of a start. Devices that run already were started by
// an earlier incarnation; devices that a failed start has dropped cannot run.
func (w *world) starts(st state, d Dest) {
	then := func(st state, what string, ev Event) {
		st.d.result = uint8(plain(ev))
		w.visit(st, "D", what, 0)
	}
	switch st.d.dev {
	case running:
		then(st, "finds its devices running", Started{})
		return
	case loaded:
		then(st, "fails to start, copy kept", NotStarted{Copy: Kept})
		then(st, "fails to start, perhaps", NotStarted{Copy: Unclear})
	}
	if st.d.dev != dropped {
		ran := w.executes(st, d)
		then(ran, "starts", Started{})
		then(ran, "starts, perhaps", NotStarted{Copy: Unclear})
	}
	st.d.dev, st.copy, st.held = dropped, 0, false
	then(st, "fails to start, copy dropped", NotStarted{Copy: Dropped})
}

// executes holds a start to the invariants.
func (w *world) executes(st state, d Dest) state {
	last := w.entries.vals[st.s.log]
	switch {
	case st.ran:
		w.violated(st, "I5: the destination executes twice")
	case w.external && d.Record != Forced && st.yes&(1<<d.Attempt.Epoch) == 0:
		w.violated(st, "the destination runs what the owner of the VM did not let go")
	case st.d.dev != loaded || uint64(st.copy) != d.Attempt.Epoch:
		w.violated(st, "I4: the destination runs what is not a complete copy of its attempt")
	case d.Record == Forced: // the source is in doubt, or dead
	case last.Record != Commit && last.Record != Done || last.Attempt != d.Attempt:
		w.violated(st, "I5: the destination runs attempt %d, the source's record is %v of %d", d.Attempt.Epoch, last.Record, last.Attempt.Epoch)
	}
	st.d.dev, st.ran = running, true
	return st
}

func (w *world) resets(st state) {
	if st.d.dev == running {
		w.violated(st, "I3: the destination resets what runs")
	}
	if st.d.dev == loaded && st.s.dev == wiped && !w.givenUp(st, w.dests.vals[st.d.machine].Attempt) {
		w.violated(st, "I3h: the destination drops the last copy")
	}
	st.d.dev, st.copy = empty, 0
	st.d.result = uint8(plain(WasReset{Failed: true}))
	w.visit(st, "D", "fails to reset", 0)
	st.d.result = uint8(plain(WasReset{}))
	w.visit(st, "D", "resets", 0)
}

// givenUp reports whether the source, before its host died, had taken its devices back or
// had asked for that.
func (w *world) givenUp(st state, a migration.Attempt) bool {
	return w.sent(st, &wire.Abort{Attempt: a}) || w.sent(st, &wire.Cancel{Attempt: a}) || st.won>>(2*(a.Epoch-1))&3 == uint8(SourceSide)
}

func (w *world) destFinishes(st state, o migration.Outcome) {
	switch {
	case o == migration.Committed && st.d.dev != running:
		w.violated(st, "the destination reports committed, and does not run")
	case o == migration.Aborted && (st.d.dev == running || st.d.dev == loaded):
		w.violated(st, "the destination reports aborted, and holds a copy")
	}
}

// recorded holds a message to rule R1: what it announces is in the journal.
func (w *world) recorded(st state, log, message uint16) {
	m, last := w.messages.vals[message], w.entries.vals[log]
	want := map[wire.MessageType]Record{
		wire.TypeReady: Ready, wire.TypeCommit: Commit, wire.TypeRunning: Accept,
		wire.TypeDeclined: Aborted, wire.TypeNotStarted: Ready, wire.TypeAbort: Owner, wire.TypeFin: Done,
	}
	record, ok := want[m.typ]
	if m.typ == wire.TypeDeclined && m.journal == (migration.JournalID{}) && last.Record == None {
		return // to HELLO, by who has no journal: its source is at OPEN
	}
	if m.typ == wire.TypeRunning && (last.Record == Running || last.Record == Done || last.Record == Forced) {
		record = last.Record // which says as much, and more
	}
	if last.Record == Forced && last.Attempt.Epoch == m.epoch+1 {
		return // an answer about the attempt before: the devices show whether it is true
	}
	older := m.typ == wire.TypeDeclined && last.Attempt.Epoch > m.epoch // OPEN of a newer attempt rules it out
	if ok && !older && (last.Record != record || last.Attempt.Epoch != m.epoch) && !w.looseRecords {
		w.violated(st, "R1: %v of attempt %d is sent, the journal says %v of %d", m.typ, m.epoch, last.Record, last.Attempt.Epoch)
	}
}
