package main

import "fmt"

// short is the size, in GiB, of the states for comparison. noise is the largest size of a
// state of noise, which takes long.
const (
	short = 1
	noise = 8
)

// state is the state of a simulated device.
type state struct {
	gib     int
	content string // of package sim
	rounds  int
}

func (s state) String() string {
	return fmt.Sprintf("%d GiB of %s", s.gib, map[string]string{"zero": "zeros", "random": "noise"}[s.content])
}

// url is the URL of a device with the state.
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
