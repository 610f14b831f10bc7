package handoff

import (
	"fmt"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// The explorer visits every state that the two real machines can reach when
//   - every message that was ever sent may arrive never, once or often, in any
//     order, at any later incarnation of the receiver;
//   - either side may crash before and after every single action: it forgets
//     all but its journal's last entry and starts again from that;
//   - peers are lost, users interrupt and devices fail at any time;
//   - a journal may refuse an entry, and keep it all the same (journalFails);
//   - the destination's journal may be lost with its host (amnesia);
//   - a witness may be out of reach, or its answer be lost (witness);
//   - a person may decide for a side that is in doubt (forces);
//   - the source's owner may say yes to COMMIT, or nothing, and its word be lost
//     (external);
//   - the source's host may die with its devices (reboots);
//   - some of the source's devices, all or none of them may refuse to stop or to run
//     again on the way back, or take longer than the watch waits, and a person may then
//     have the destination's copy run (rescues).
//
// Another process (a VMM) holds the devices, so that they outlive a crash of a program.

// device is the state of a side's devices.
type device uint8

const (
	running device = iota
	stopped
	gone    // released by the source
	wiped   // the source's: its host has died, and they are new ones
	torn    // the source's: some of them run, and some could not be resumed
	late    // the source's: told to run, and their drivers have not answered
	empty   // the destination's: reset, or not complete
	loaded  // the destination's: complete, in STOP
	dropped // the destination's: lost by a failed start
)

// side is what is known of one side. The numbers stand for interned values.
type side struct {
	machine uint16
	todo    uint16 // actions not yet taken
	log     uint16 // last entry of the journal
	dev     device
	result  uint8 // event to come from an action that was taken
	asked   uint8 // event to come from the witness, or from the owner
}

// state is all there is.
type state struct {
	s, d side
	net  uint64 // messages ever sent
	copy uint8  // epoch of the bytes in the destination's devices
	ran  bool   // the destination's devices have executed
	lost bool   // the destination's journal was lost
	won  uint8  // the witness's registers, two bits for each epoch
	yes  uint8  // the owner's word for each epoch, a bit each

	held bool // the destination holds a complete copy, and the source goes back: it is not to drop that for it (I3b)
}

// world is the explored system: the machines, and what may happen to them.
type world struct {
	epochs       int
	journalFails bool
	amnesia      bool
	looseRecords bool     // do not check rule R1, so that the others have to
	witnessS     Register // that the source has
	witnessD     Register // that the destination has
	external     bool     // the source's owner decides
	reboots      bool     // the source's host may die, and its devices with it
	cancels      bool     // the destination's user may cancel when the copy is complete, and leave it behind
	forces       bool
	rescues      bool
	rescue       func(Entry) (Entry, bool)                  // what a person may decide at the source then
	forceD       func(w *world, st *state, last Entry) bool // may the destination be forced

	source        func(Source, Event) (Source, []SourceAction)
	dest          func(Dest, Event) (Dest, []DestAction)
	restartSource func(Entry) (Source, []SourceAction)
	restartDest   func(Entry, Holding) (Dest, []DestAction)

	sources  table[Source]
	dests    table[Dest]
	entries  table[Entry]
	actions  table[actionKey]
	lists    table[string]
	messages table[messageKey]
	samples  []wire.Message // by number of the message

	stepS map[[2]int][2]uint16 // (machine, event) to (machine, actions)
	stepD map[[2]int][2]uint16

	seen  map[state]uint32
	queue []state
	from  []origin
	now   uint32 // the state whose successors are being made
	edges [][2]uint32
	bad   error
}

type origin struct {
	state uint32
	label string
}

// table numbers values as they turn up.
type table[T comparable] struct {
	ids  map[T]uint16
	vals []T
}

func (t *table[T]) id(v T) uint16 {
	if t.ids == nil {
		t.ids = map[T]uint16{}
	}
	id, ok := t.ids[v]
	if !ok {
		id = uint16(len(t.vals))
		t.ids[v], t.vals = id, append(t.vals, v)
	}
	return id
}

// messageKey is what of a message a machine can act upon.
type messageKey struct {
	typ     wire.MessageType
	epoch   uint64
	journal migration.JournalID
}

// actionKey is an action as a comparable value.
type actionKey struct {
	kind    string
	entry   Entry
	message uint16
	outcome migration.Outcome
}

var (
	worldMig      = migration.ID{1}
	sourceJournal = migration.JournalID{2}
	destJournal   = migration.JournalID{3}
	otherJournal  = migration.JournalID{4}
	// Equal in every attempt, as for an idle device: a digest must not be what
	// saves an attempt from the messages of another.
	worldDigest  = migration.StreamDigest{5}
	worldWitness = RegisterOf("witness")
)

func attempt(epoch uint64) migration.Attempt { return migration.Attempt{Mig: worldMig, Epoch: epoch} }

func newWorld(epochs int) *world {
	w := &world{epochs: epochs, source: takeSource, dest: takeDest,
		restartSource: RestartSource, restartDest: RestartDest, forceD: (*world).wins, rescue: func(last Entry) (Entry, bool) { return CommitThere(last, "") },
		stepS: map[[2]int][2]uint16{}, stepD: map[[2]int][2]uint16{}, seen: map[state]uint32{}}
	w.lists.id("") // 0 is the empty list
	return w
}

func (w *world) message(m wire.Message) uint16 {
	k := messageKey{typ: m.Type(), epoch: m.About().Epoch}
	switch m := m.(type) {
	case *wire.Welcome:
		k.journal = m.Journal
	case *wire.Ready:
		k.journal = m.Journal
	case *wire.Commit:
		k.journal = m.Journal
	case *wire.Running:
		k.journal = m.Journal
	case *wire.Declined:
		k.journal = m.Journal
	case *wire.NotStarted:
		k.journal = m.Journal
	case *wire.Status:
		k.journal = m.Journal
	}
	id := w.messages.id(k)
	if int(id) == len(w.samples) {
		w.samples = append(w.samples, m)
	}
	if id >= 64 {
		panic("more than 64 messages")
	}
	return id
}

// list numbers a list of actions.
func (w *world) list(actions []Action) uint16 {
	var b []byte
	for _, a := range actions {
		k := actionKey{kind: fmt.Sprintf("%T", a)}
		switch a := a.(type) {
		case Append:
			k.entry = a.Entry
		case Send:
			k.message = w.message(a.Message)
		case Finish:
			k.outcome = a.Outcome
		}
		b = append(b, byte(w.actions.id(k)))
	}
	return w.lists.id(string(b))
}

// head splits a list into its first action and the rest.
func (w *world) head(list uint16) (actionKey, uint16) {
	s := w.lists.vals[list]
	return w.actions.vals[s[0]], w.lists.id(s[1:])
}

// The events that are no messages, by number; messages follow from eventMessage on.
var plainEvents = []Event{nil, Begin{}, Unreachable{}, Reached{}, Interrupt{}, Leave{}, Failed{Code: transport.CodeDevice}, Unrecorded{},
	Drained{worldDigest}, Loaded{worldDigest}, Resumed{Back}, Resumed{SomeRan}, Started{}, NotStarted{Copy: Kept},
	NotStarted{Copy: Dropped}, NotStarted{Copy: Unclear}, WasReset{}, WasReset{Failed: true},
	Approved{}, Overdue{}, Witnessed{}, Witnessed{SourceSide}, Witnessed{DestSide},
	Offered{attempt(1), 0}, Offered{attempt(2), 0}, Offered{attempt(3), 0}, Offered{attempt(1), worldWitness},
	Refused{Attempt: attempt(1)}, Refused{Attempt: attempt(2)}, Refused{Attempt: attempt(3)},
	Refused{Attempt: attempt(1), NoRecord: true}, Refused{Attempt: attempt(2), NoRecord: true}, Refused{Attempt: attempt(3), NoRecord: true},
	Halted{}, Halted{Failed: true}, Resumed{Unheard}, Resumed{NoneRan}}

const eventMessage = 100

func plain(ev Event) int {
	i := slices.Index(plainEvents, ev)
	if i < 0 {
		panic(fmt.Sprintf("event %#v is not listed", ev))
	}
	return i
}

func (w *world) event(n int) Event {
	if n >= eventMessage {
		return w.samples[n-eventMessage]
	}
	return plainEvents[n]
}

func (w *world) eventName(n int) string {
	if ev, ok := w.event(n).(wire.Message); ok {
		return fmt.Sprintf("%v(%d)", ev.Type(), ev.About().Epoch)
	}
	return strings.TrimPrefix(fmt.Sprintf("%#v", w.event(n)), "handoff.")
}

// sourceTakes feeds the source an event.
func (w *world) sourceTakes(st state, ev int) {
	k := [2]int{int(st.s.machine), ev}
	to, ok := w.stepS[k]
	if !ok {
		next, actions := w.source(w.sources.vals[st.s.machine], w.event(ev))
		next = w.plainer(next)
		to = [2]uint16{w.sources.id(next), w.list(mixed(actions))}
		w.stepS[k] = to
	}
	st.s.machine, st.s.todo = to[0], to[1]
	w.visit(st, "S", "takes", ev)
}

func (w *world) destTakes(st state, ev int) {
	k := [2]int{int(st.d.machine), ev}
	to, ok := w.stepD[k]
	if !ok {
		next, actions := w.dest(w.dests.vals[st.d.machine], w.event(ev))
		to = [2]uint16{w.dests.id(next), w.list(mixed(actions))}
		w.stepD[k] = to
	}
	st.d.machine, st.d.todo = to[0], to[1]
	w.visit(st, "D", "takes", ev)
}

// visit notes a state that follows the present one.
func (w *world) visit(st state, who, what string, ev int) {
	id, ok := w.seen[st]
	if !ok {
		id = uint32(len(w.queue))
		label := who + " " + what
		if ev > 0 {
			label += " " + w.eventName(ev)
		}
		w.seen[st] = id
		w.queue = append(w.queue, st)
		w.from = append(w.from, origin{w.now, label})
		w.check(st)
	}
	w.edges = append(w.edges, [2]uint32{w.now, id})
}

// explore visits all states, or stops at the first violation.
func (w *world) explore() error {
	first := w.newSource(1)
	w.visit(state{
		s: side{machine: w.sources.id(first), log: w.entries.id(Entry{Record: Owner, Attempt: attempt(1), Journal: sourceJournal}), dev: running},
		d: side{machine: w.dests.id(NewDest(destJournal)), log: w.entries.id(Entry{Journal: destJournal}), dev: empty},
	}, "both", "are new", 0)
	for i := 0; i < len(w.queue) && w.bad == nil; i++ {
		w.now = uint32(i)
		w.sourceMoves(w.queue[i])
		w.destMoves(w.queue[i])
	}
	return w.bad
}

func (w *world) newSource(epoch uint64) Source {
	s := NewSource(attempt(epoch), sourceJournal)
	s.Witness, s.External = w.witnessS, w.external
	return s
}

// violated stops the exploration and tells how it came to this.
func (w *world) violated(st state, format string, args ...any) {
	if w.bad != nil {
		return
	}
	at := w.now
	if id, ok := w.seen[st]; ok {
		at = id
	}
	var steps []string
	for ; at != 0; at = w.from[at].state {
		steps = append(steps, w.from[at].label)
	}
	slices.Reverse(steps)
	w.bad = fmt.Errorf("%s\n\t%s", fmt.Sprintf(format, args...), strings.Join(steps, "\n\t"))
}

// check holds a state to the invariants that are about states.
func (w *world) check(st state) {
	if (st.s.dev == running || st.s.dev == torn || st.s.dev == late) && st.d.dev == running {
		w.violated(st, "I1: both sides run")
	}
	if st.held && st.d.dev != loaded && st.d.dev != running {
		w.violated(st, "I3b: the destination has dropped its copy for a source that does not run again")
	}
	if st.s.dev == gone && st.d.dev != running && !st.lost {
		w.violated(st, "I3: no copy is left")
	}
}
