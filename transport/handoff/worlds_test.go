package handoff

import (
	"slices"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
)

// worlds are what the machines have to survive.
var worlds = []struct {
	name           string
	epochs         int
	fails, amnesia bool
	witness, force bool
	external       bool
	reboots        bool
	cancel         bool
	rescues        bool
}{
	{name: "one attempt, journals that fail", epochs: 1, fails: true, cancel: true},
	{name: "one attempt, a journal lost", epochs: 1, amnesia: true},
	{name: "two attempts, journals that fail", epochs: 2, fails: true},
	{name: "one attempt, a witness, journals that fail", epochs: 1, fails: true, witness: true, cancel: true},
	{name: "one attempt, a witness, a journal lost", epochs: 1, amnesia: true, witness: true},
	{name: "three attempts, one forced", epochs: 3, force: true},
	{name: "one attempt, a witness, forced", epochs: 1, witness: true, force: true},
	{name: "one attempt, an owner decides, journals that fail", epochs: 1, fails: true, external: true, cancel: true},
	{name: "one attempt, an owner decides, a journal lost", epochs: 1, amnesia: true, external: true},
	{name: "two attempts, an owner decides", epochs: 2, external: true},
	{name: "one attempt, the source's host dies", epochs: 1, reboots: true, cancel: true},
	{name: "one attempt, a witness, the source's host dies", epochs: 1, witness: true, reboots: true, cancel: true},
	{name: "one attempt, the way back fails, journals that fail", epochs: 1, fails: true, rescues: true},
	{name: "one attempt, the way back fails, cancelled at both sides", epochs: 1, rescues: true, cancel: true},
	{name: "one attempt, a witness, the way back fails", epochs: 1, witness: true, rescues: true},
}

func TestExplore(t *testing.T) {
	for _, c := range worlds {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			unlessSlow(t, c.epochs > 1 || c.amnesia || c.rescues && c.witness)
			w := newWorld(c.epochs)
			w.journalFails, w.amnesia, w.forces = c.fails, c.amnesia, c.force
			w.external, w.reboots, w.rescues = c.external, c.reboots, c.rescues
			w.cancels = c.cancel
			if c.witness {
				w.witnessS, w.witnessD = worldWitness, worldWitness
			}
			if err := w.explore(); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states, %d steps; the source has %d and the destination %d",
				len(w.queue), len(w.edges), len(w.sources.vals), len(w.dests.vals))
			if !c.amnesia {
				w.mustSettle(t)
			}
			w.mustReach(t, c.epochs == 2 && c.fails, usual)
			w.mustReach(t, c.witness && !c.force, witnessed)
			w.mustReach(t, c.epochs == 3, forced)
			w.mustReach(t, c.external && c.epochs == 2, approved)
			w.mustReach(t, c.reboots, rescued)
			w.mustReach(t, c.rescues && c.fails, takenBack)
		})
	}
}

func unlessSlow(t *testing.T, large bool) {
	if raceEnabled && large {
		t.Skip("explored without the race detector")
	}
}

// landmarks are states without which an exploration would prove little.
type landmarks map[string]func(w *world, st state, s, d Entry) bool

var usual = landmarks{
	"the migration is done": func(_ *world, st state, s, _ Entry) bool {
		return s.Record == Done && st.s.dev == gone && st.d.dev == running
	},
	"COMMIT was taken back": func(w *world, st state, s, d Entry) bool {
		return s.Record == Owner && st.s.dev == running && d.Record == Aborted && w.sent(st, &wire.Commit{Attempt: attempt(1), Journal: destJournal})
	},
	"the second attempt is done": func(_ *world, st state, s, _ Entry) bool {
		return s.Record == Done && s.Attempt.Epoch == 2
	},
	"in doubt, and the destination runs": func(_ *world, st state, s, d Entry) bool {
		return s.Record == Commit && d.Record == Accept && st.d.dev == running
	},
	"in doubt, and nobody runs": func(_ *world, st state, s, d Entry) bool {
		return s.Record == Commit && d.Record == Ready && st.d.dev == loaded
	},
	"ACCEPT was taken back": func(w *world, st state, _, d Entry) bool {
		return d.Record == Ready && w.sent(st, &wire.NotStarted{Attempt: attempt(1), Journal: destJournal})
	},
}

var witnessed = landmarks{
	"the witness gave the devices back": func(_ *world, st state, s, _ Entry) bool {
		return s.Record == Owner && st.s.dev == running && st.won&3 == uint8(SourceSide)
	},
	"the source has lost, and the destination runs": func(w *world, st state, s, _ Entry) bool {
		return w.sources.vals[st.s.machine].Lost && s.Record == Commit && st.d.dev == running
	},
	"the destination has lost": func(_ *world, st state, s, d Entry) bool {
		return d.Record == Aborted && s.Record == Commit && st.won&3 == uint8(SourceSide)
	},
	"the destination has won, and was declined": func(_ *world, st state, s, d Entry) bool {
		return d.Record == Aborted && s.Record == Owner && st.won&3 == uint8(DestSide)
	},
}

var forced = landmarks{
	"the source was forced, and the next attempt is done": func(_ *world, st state, s, _ Entry) bool {
		return s.Record == Done && s.Attempt.Epoch == 3
	},
	"the destination was forced, and the source knows": func(_ *world, st state, s, d Entry) bool {
		return d.Record == Forced && st.d.dev == running && s.Record == Done && s.Attempt.Epoch+1 == d.Attempt.Epoch
	},
	"the destination was forced, and does not run": func(w *world, st state, s, d Entry) bool {
		return d.Record == Forced && st.d.dev == dropped && s.Record == Commit && w.sources.vals[st.s.machine].Phase == SourceEnded
	},
}

var approved = landmarks{
	"the owner was asked, and the source runs on without its word": func(w *world, st state, s, _ Entry) bool {
		return st.yes == 0 && s.Record == Owner && st.s.dev == running && w.sent(st, &wire.Ready{Attempt: attempt(1), Journal: destJournal})
	},
	"the owner's yes came too late": func(w *world, st state, s, _ Entry) bool {
		return w.sources.vals[st.s.machine].Phase == SourceEnded && s.Record == Owner && st.s.asked == uint8(plain(Approved{}))
	},
	"the second attempt was approved, and runs": func(_ *world, st state, s, _ Entry) bool {
		return st.yes == 1<<2 && s.Record == Done && st.d.dev == running
	},
}

var rescued = landmarks{
	"a signal has left the last copy as it was": func(w *world, st state, s, d Entry) bool {
		return st.s.dev == wiped && s.Record == Owner && d.Record == Ready && st.d.dev == loaded && w.dests.vals[st.d.machine].Hurried
	},
	"the last copy was left, and a later process runs it": func(w *world, st state, s, d Entry) bool {
		return st.s.dev == wiped && s.Record == Done && st.d.dev == running && w.sent(st, &wire.NotStarted{Attempt: attempt(1), Journal: destJournal})
	},
	"the source's devices are gone, and the destination runs by its COMMIT": func(_ *world, st state, s, d Entry) bool {
		return st.s.dev == wiped && s.Record == Commit && st.d.dev == running
	},
}

var takenBack = landmarks{
	"the way back has failed, and the destination holds its copy": func(_ *world, st state, s, _ Entry) bool {
		return s.Record == ResumeFailed && st.s.dev == stopped && st.held && st.d.dev == loaded
	},
	"a person has had the destination's copy run": func(w *world, st state, s, _ Entry) bool {
		return s.Record == Done && st.d.dev == running && w.sources.vals[st.s.machine].Empty
	},
	"some devices run again, and no person hands them over": func(_ *world, st state, s, _ Entry) bool {
		return s.Record == Owner && s.Sole && st.s.dev == torn && st.held
	},
	"the way back was given up, and its drivers have not answered yet": func(w *world, st state, s, _ Entry) bool {
		return st.s.dev == late && st.held && s.Record == Owner && w.sources.vals[st.s.machine].Phase == SourceEnded
	},
	"the way back has failed, and worked when it was tried again": func(w *world, st state, s, d Entry) bool {
		return s.Record == Owner && !s.Sole && st.s.dev == running && d.Record == Aborted && w.sent(st, &wire.Ready{Attempt: attempt(1), Journal: destJournal})
	},
}

// mustReach looks for landmarks.
func (w *world) mustReach(t *testing.T, here bool, marks landmarks) {
	if !here {
		return
	}
	for what, is := range marks {
		if !slices.ContainsFunc(w.queue, func(st state) bool {
			return is(w, st, w.entries.vals[st.s.log], w.entries.vals[st.d.log])
		}) {
			t.Errorf("not reached: %s", what)
		}
	}
}

// mustSettle checks that from every state there is a way to exactly one
// running side that both sides' records agree about.
func (w *world) mustSettle(t *testing.T) {
	into := make([][]uint32, len(w.queue))
	for _, e := range w.edges {
		into[e[1]] = append(into[e[1]], e[0])
	}
	good := make([]bool, len(w.queue))
	var todo []uint32
	for i, st := range w.queue {
		if w.settled(st) {
			good[i], todo = true, append(todo, uint32(i))
		}
	}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range into[at] {
			if !good[from] {
				good[from], todo = true, append(todo, from)
			}
		}
	}
	if i := slices.Index(good, false); i >= 0 {
		w.violated(w.queue[i], "from here nothing settles")
		t.Error(w.bad)
	}
}

func (w *world) settled(st state) bool {
	s, d := w.entries.vals[st.s.log], w.entries.vals[st.d.log]
	switch {
	case st.s.dev == running:
		return (s.Record == Owner || s.Record == Forced) && d.Record != Accept && (d.Record != Running || w.forces) // a person may have overruled what ran
	case st.d.dev == running:
		return s.Record == Done && (d.Record == Accept || d.Record == Running || d.Record == Done || d.Record == Forced) || d.Record == Done
	}
	if st.s.dev == wiped && s.Record == Owner { // what it held died with its host
		return true
	}
	return d.Record == Lost || d.Record == Forced && st.d.dev == dropped // for people to decide
}
