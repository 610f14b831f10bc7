package handoff

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
)

// Event is an event of either machine, or a message, as the tests draw them: not every one of
// them is for both. Action is an action of either machine.
type (
	Event  = any
	Action = any
)

// takeSource gives the source an event, if it is one that a source takes.
func takeSource(s Source, ev Event) (Source, []SourceAction) {
	if m, ok := ev.(wire.Message); ok {
		ev = Received{m}
	}
	if ev, ok := ev.(SourceEvent); ok {
		return s.Step(ev)
	}
	return s, nil
}

// takeDest gives the destination an event, if it is one that a destination takes.
func takeDest(d Dest, ev Event) (Dest, []DestAction) {
	if m, ok := ev.(wire.Message); ok {
		ev = Received{m}
	}
	if ev, ok := ev.(DestEvent); ok {
		return d.Step(ev)
	}
	return d, nil
}

// mixed gives the actions of one machine as those of either.
func mixed[A any](actions []A) (all []Action) {
	for _, a := range actions {
		all = append(all, a)
	}
	return all
}

// TestEveryEventCounts: each type that is declared an event of a machine changes it, or has it
// act, in some state. One that is not drawn here, or that no phase heeds, is missing.
func TestEveryEventCounts(t *testing.T) {
	drawn := slices.Concat(everything(), plainEvents[1:])
	source := NewSource(attempt(1), sourceJournal)
	owned, watched := source, source
	owned.External, watched.Witness = true, worldWitness
	counted := countEvents([]Source{source, owned, watched}, drawn, func(s Source, ev Event) (Source, []Action) {
		next, actions := takeSource(s, ev)
		return next, mixed(actions)
	})
	if want := declaredEvents(t, "isSourceEvent"); !slices.Equal(counted, want) {
		t.Errorf("of the source's events count %v, want %v", counted, want)
	}
	counted = countEvents([]Dest{NewDest(destJournal)}, drawn, func(d Dest, ev Event) (Dest, []Action) {
		next, actions := takeDest(d, ev)
		return next, mixed(actions)
	})
	if want := declaredEvents(t, "isDestEvent"); !slices.Equal(counted, want) {
		t.Errorf("of the destination's events count %v, want %v", counted, want)
	}
}

// countEvents gives the types of the events that change a machine, or have it act, in any state
// that it reaches by them.
func countEvents[M comparable](states []M, events []Event, take func(M, Event) (M, []Action)) []string {
	counted, seen := map[string]bool{}, map[M]bool{}
	for len(states) > 0 {
		m := states[0]
		states = states[1:]
		for _, ev := range events {
			next, actions := take(m, ev)
			if next == m && len(actions) == 0 {
				continue
			}
			name := "Received"
			if _, message := ev.(wire.Message); !message {
				name = strings.TrimPrefix(fmt.Sprintf("%T", ev), "handoff.")
			}
			counted[name] = true
			if !seen[next] {
				seen[next], states = true, append(states, next)
			}
		}
	}
	return slices.Sorted(maps.Keys(counted))
}

// declaredEvents gives the types that have a method of this name.
func declaredEvents(t *testing.T, marker string) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		if d, ok := d.(*ast.FuncDecl); ok && d.Name.Name == marker {
			names = append(names, d.Recv.List[0].Type.(*ast.Ident).Name)
		}
	}
	slices.Sort(names)
	return names
}
