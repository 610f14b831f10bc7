// Package vm moves the state of a real VFIO device, the kernel's mtty sample,
// from one Linux guest to another. Its README says how to run it.
package vm

import (
	"testing"
)

// pair is two booted guests and what they run.
type pair struct {
	host                *host
	source, destination *machine
}

// scenarios run on each kernel, in this order, each with devices of its own.
var scenarios = []struct {
	name string
	run  func(*testing.T, pair)
}{
	{"device", testDevice},
}

func TestVM(t *testing.T) {
	h := newHost(t)
	for _, k := range h.kernels {
		t.Run(k.name, func(t *testing.T) {
			source, destination := bootPair(t, h, k)
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) { s.run(t, pair{h, source, destination}) })
			}
		})
	}
}
