package main

import "fmt"

// short is what the states have, in GiB, that others are held against; and noise what one
// of noise has at most, which takes long.
const (
	short = 1
	noise = 8
)

// state is what a simulated device holds.
type state struct {
	gib     int
	content string // of package sim
	rounds  int
}

func (s state) String() string {
	return fmt.Sprintf("%d GiB of %s", s.gib, map[string]string{"zero": "zeros", "random": "noise"}[s.content])
}

// url is the device that holds it.
func (s state) url() string { return fmt.Sprintf("sim:vgpu?size=%dGiB&content=%s", s.gib, s.content) }

// states are a short and a long one of each content.
func states(most, rounds int) []state {
	once := rounds
	if most > noise {
		once = 1
	}
	return []state{
		{short, "zero", rounds}, {most, "zero", once},
		{short, "random", rounds}, {min(most, noise), "random", rounds},
	}
}
