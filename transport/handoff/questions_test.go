package handoff

import (
	"slices"
	"testing"
)

// TestSourceQuestions: what each phase of the source answers.
func TestSourceQuestions(t *testing.T) {
	want := map[SourcePhase][]string{
		SourceIdle:     nil,
		SourceHello:    {"AwaitsWelcome", "NeedsPeer"},
		SourceTransfer: {"AwaitsReady", "NeedsPeer"},
		SourceWaiting:  {"AwaitsReady", "NeedsPeer"},
		SourceDeciding: {"AwaitsApproval", "NeedsPeer"},
		SourceDoubt:    {"InDoubt", "NeedsPeer"},
		SourceHalting:  nil,
		SourceResuming: nil,
		SourceEnded:    nil,
	}
	for phase := SourceIdle; phase <= SourceEnded; phase++ {
		s := Source{Phase: phase}
		got := yes([]answer{{"AwaitsWelcome", s.AwaitsWelcome()}, {"AwaitsReady", s.AwaitsReady()},
			{"AwaitsApproval", s.AwaitsApproval()}, {"InDoubt", s.InDoubt()}, {"NeedsPeer", s.NeedsPeer()}})
		if all, ok := want[phase]; !ok || !slices.Equal(got, all) {
			t.Errorf("%v: %v, want %v", phase, got, all)
		}
	}
}

// TestDestQuestions: what each phase of the destination answers.
func TestDestQuestions(t *testing.T) {
	want := map[DestPhase][]string{
		DestIdle:      nil,
		DestReceiving: {"Engaged", "Receives"},
		DestReady:     {"Engaged", "HoldsCopy"},
		DestStarting:  {"Engaged", "Starts", "MayRunDevices"},
		DestRunning:   {"Engaged", "MayRunDevices"},
		DestResetting: {"Engaged", "Resets"},
		DestEnded:     {"Engaged"},
	}
	for phase := DestIdle; phase <= DestEnded; phase++ {
		d := Dest{Phase: phase}
		got := yes([]answer{{"Engaged", d.Engaged()}, {"Receives", d.Receives()}, {"HoldsCopy", d.HoldsCopy()},
			{"Starts", d.Starts()}, {"MayRunDevices", d.MayRunDevices()}, {"Resets", d.Resets()}})
		if all, ok := want[phase]; !ok || !slices.Equal(got, all) {
			t.Errorf("%v: %v, want %v", phase, got, all)
		}
	}
}

type answer struct {
	question string
	yes      bool
}

// yes lists the questions that are answered so.
func yes(all []answer) (names []string) {
	for _, a := range all {
		if a.yes {
			names = append(names, a.question)
		}
	}
	return names
}
