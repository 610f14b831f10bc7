package handoff

import (
	"slices"
	"testing"

	"github.com/migpipe/migpipe/transport"
)

// worlds are what the machines have to survive.
var worlds = []struct {
	name           string
	epochs         int
	fails, amnesia bool
}{
	{"one attempt, journals that fail", 1, true, false},
	{"one attempt, a journal lost", 1, false, true},
	{"two attempts, journals that fail", 2, true, false},
}

func TestExplore(t *testing.T) {
	for _, c := range worlds {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			unlessSlow(t, c.epochs > 1 || c.amnesia)
			w := newWorld(c.epochs)
			w.journalFails, w.amnesia = c.fails, c.amnesia
			if err := w.explore(); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states, %d steps; the source has %d and the destination %d",
				len(w.queue), len(w.edges), len(w.sources.vals), len(w.dests.vals))
			if !c.amnesia {
				w.mustSettle(t)
			}
			if c.epochs == 2 {
				w.mustReach(t)
			}
		})
	}
}

func unlessSlow(t *testing.T, large bool) {
	if raceEnabled && large {
		t.Skip("explored without the race detector")
	}
}

// mustReach looks for states without which the exploration would prove little.
func (w *world) mustReach(t *testing.T) {
	for what, is := range map[string]func(st state, s, d Entry) bool{
		"the migration is done": func(st state, s, _ Entry) bool {
			return s.Record == Done && st.s.dev == gone && st.d.dev == running
		},
		"COMMIT was taken back": func(st state, s, d Entry) bool {
			return s.Record == Owner && st.s.dev == running && d.Record == Aborted && w.sent(st, &transport.Commit{Attempt: attempt(1), Journal: destJournal})
		},
		"the second attempt is done": func(st state, s, _ Entry) bool {
			return s.Record == Done && s.Attempt.Epoch == 2
		},
		"in doubt, and the destination runs": func(st state, s, d Entry) bool {
			return s.Record == Commit && d.Record == Accept && st.d.dev == running
		},
		"in doubt, and nobody runs": func(st state, s, d Entry) bool {
			return s.Record == Commit && d.Record == Ready && st.d.dev == loaded
		},
		"ACCEPT was taken back": func(st state, _, d Entry) bool {
			return d.Record == Ready && w.sent(st, &transport.NotStarted{Attempt: attempt(1), Journal: destJournal})
		},
	} {
		if !slices.ContainsFunc(w.queue, func(st state) bool {
			return is(st, w.entries.vals[st.s.log], w.entries.vals[st.d.log])
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
		return s.Record == Owner && d.Record != Accept
	case st.d.dev == running:
		return s.Record == Done && (d.Record == Accept || d.Record == Done) || d.Record == Done
	}
	return d.Record == Lost // for people to decide
}
