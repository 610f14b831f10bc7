package vfio

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// letters abbreviates the states in the tables below; Z is PRE_COPY_P2P.
var letters = map[byte]State{
	'S': Stop, 'R': Running, 'C': StopCopy, 'L': Resuming, 'P': RunningP2P, 'Y': PreCopy, 'Z': PreCopyP2P,
}

// nextTables holds all results of Next: a row per current state, a column per
// requested one, both in the order S R C L P Y Z. "!" is blocked, "-" is a
// state that the device lacks.
var nextTables = []struct {
	features Features
	rows     string
}{
	{Features{P2P: true, PreCopy: true}, `
		S: S P C L P P P
		R: P R P P P Y P
		C: S S C S S ! !
		L: S S S L S S S
		P: S R S S P R Z
		Y: R R Z R R Y Z
		Z: P P C P P Y Z`},
	{Features{P2P: true}, `
		S: S P C L P - -
		R: P R P P P - -
		C: S S C S S - -
		L: S S S L S - -
		P: S R S S P - -
		Y: - - - - - - -
		Z: - - - - - - -`},
	{Features{PreCopy: true}, `
		S: S R C L - R -
		R: S R S S - Y -
		C: S S C S - ! -
		L: S S S L - S -
		P: - - - - - - -
		Y: R R C R - Y -
		Z: - - - - - - -`},
	{Features{}, `
		S: S R C L - - -
		R: S R S S - - -
		C: S S C S - - -
		L: S S S L - - -
		P: - - - - - - -
		Y: - - - - - - -
		Z: - - - - - - -`},
}

const columns = "SRCLPYZ"

func TestNextTable(t *testing.T) {
	for _, table := range nextTables {
		for row := range strings.SplitSeq(strings.TrimSpace(table.rows), "\n") {
			cells := strings.Fields(row)
			from := letters[cells[0][0]]
			for i, cell := range cells[1:] {
				checkCell(t, from, letters[columns[i]], table.features, cell[0])
			}
		}
	}
}

func checkCell(t *testing.T, from, to State, f Features, want byte) {
	t.Helper()
	got, err := Next(from, to, f)
	switch want {
	case '!':
		if !errors.Is(err, ErrBlocked) {
			t.Errorf("%+v: %v -> %v: got %v, %v, want it blocked", f, from, to, got, err)
		}
	case '-':
		if !errors.Is(err, ErrUnsupportedState) {
			t.Errorf("%+v: %v -> %v: got %v, %v, want it unsupported", f, from, to, got, err)
		}
	default:
		if err != nil || got != letters[want] {
			t.Errorf("%+v: %v -> %v: got %v, %v, want %v", f, from, to, got, err, letters[want])
		}
	}
	if legal := Legal(from, to, f); (legal == nil) != (err == nil) {
		t.Errorf("%+v: %v -> %v: Legal returned %v, Next %v", f, from, to, legal, err)
	}
}

func TestNextErrorState(t *testing.T) {
	full := Features{P2P: true, PreCopy: true}
	for to := range State(9) {
		if _, err := Next(StateError, to, full); !errors.Is(err, ErrInError) {
			t.Errorf("ERROR -> %v: got %v, want ErrInError", to, err)
		}
	}
	for from := Stop; from <= PreCopyP2P; from++ {
		for _, to := range []State{StateError, 8, 1 << 31} {
			if _, err := Path(from, to, full); !errors.Is(err, ErrUnsupportedState) {
				t.Errorf("%v -> %v: got %v, want ErrUnsupportedState", from, to, err)
			}
		}
	}
}

func TestPathExamples(t *testing.T) {
	full := Features{P2P: true, PreCopy: true}
	for _, c := range []struct {
		from, to State
		f        Features
		want     []State
	}{
		{Running, StopCopy, full, []State{RunningP2P, Stop, StopCopy}},
		{PreCopy, StopCopy, full, []State{PreCopyP2P, StopCopy}},
		{PreCopy, StopCopy, Features{PreCopy: true}, []State{StopCopy}},
		{Resuming, Running, full, []State{Stop, RunningP2P, Running}},
		{StopCopy, Running, Features{}, []State{Stop, Running}},
		{PreCopy, Stop, full, []State{Running, RunningP2P, Stop}},
		{Running, Running, full, nil},
	} {
		got, err := Path(c.from, c.to, c.f)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v -> %v: got %v, %v, want %v", c.from, c.to, got, err, c.want)
		}
	}
}

func TestOpensSession(t *testing.T) {
	want := map[string]bool{}
	for _, from := range []State{Stop, Running, Resuming, RunningP2P} {
		for _, to := range []State{StopCopy, PreCopy, PreCopyP2P} {
			want[fmt.Sprint(from, to)] = true
		}
	}
	for _, from := range []State{Stop, Running, StopCopy, RunningP2P, PreCopy, PreCopyP2P} {
		want[fmt.Sprint(from, Resuming)] = true
	}
	for from := Stop; from <= PreCopyP2P; from++ {
		for to := Stop; to <= PreCopyP2P; to++ {
			if got := OpensSession(from, to); got != want[fmt.Sprint(from, to)] {
				t.Errorf("%v -> %v: got %v", from, to, got)
			}
		}
	}
}

// TestPathProperties checks the paths between random states.
func TestPathProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := State(rapid.Uint32Range(0, 9).Draw(t, "from"))
		to := State(rapid.Uint32Range(0, 9).Draw(t, "to"))
		f := Features{P2P: rapid.Bool().Draw(t, "p2p"), PreCopy: rapid.Bool().Draw(t, "precopy")}
		path, err := Path(from, to, f)
		if err != nil {
			if path != nil || !isAny(err, ErrBlocked, ErrUnsupportedState, ErrInError) {
				t.Fatalf("%v -> %v: %v, %v", from, to, path, err)
			}
			return
		}
		checkPath(t, from, to, f, path)
	})
}

func checkPath(t *rapid.T, from, to State, f Features, path []State) {
	if from == to && len(path) == 0 {
		return
	}
	if len(path) == 0 || len(path) > len(arcs) || path[len(path)-1] != to {
		t.Fatalf("%v -> %v: walks %v", from, to, path)
	}
	for _, s := range path[:len(path)-1] {
		sameSession := s == PreCopyP2P && from.Saving() && to.Saving()
		if !f.Has(s) || (s.Saving() || s == Resuming) && !sameSession {
			t.Fatalf("%v -> %v: walks through %v: %v", from, to, s, path)
		}
	}
}

// TestRunOrder walks a device with P2P and one without to RUNNING. No device may
// initiate DMA while another cannot answer it. A caller that modifies its copy
// of the order changes nothing for others.
func TestRunOrder(t *testing.T) {
	copied := RunOrder()
	clear(copied[:])
	at := map[bool]State{true: Stop, false: Stop} // key: whether the device has P2P
	for _, step := range RunOrder() {
		if step.To == Running && at[true] == Stop {
			t.Errorf("%+v comes while the device with P2P is in STOP", step)
		}
		if err := Legal(at[step.P2P], step.To, Features{P2P: step.P2P}); err != nil {
			t.Errorf("%+v: %v", step, err)
		}
		if step.P2P && step.To == Running && at[false] != Running {
			t.Errorf("%+v comes while the device without P2P is in %v", step, at[false])
		}
		at[step.P2P] = step.To
	}
	if at[true] != Running || at[false] != Running {
		t.Errorf("after the last step: %v", at)
	}
}
