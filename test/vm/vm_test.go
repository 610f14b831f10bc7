// Package vm moves the state of a real VFIO device, the kernel's mtty sample, from one Linux
// guest to another. Its README explains how to run it.
package vm

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two booted guests and the cable between them.
type pair struct {
	host                *host
	kernel              string
	source, destination *machine
	cable               *cable
}

// scenarios run on each kernel, in this order, each with its own devices.
var scenarios = []struct {
	name string
	run  func(*testing.T, pair)
}{
	{"cable", testCable},
	{"memory", testMemory},
	{"device", testDevice},
	{"conformance", testConformance},
	{"plan", testPlan},
	{"inherited", testInherited},
	{"together", testTogether},
	{"opened", testOpened},
	{"refused", testRefused},
	{"cancel", testCancel},
	{"limit", testLimit},
	{"reset", testReset},
	{"busy", testBusy},
	{"in-doubt", testInDoubt},
	{"kill", testKill},
}

func TestVM(t *testing.T) {
	h := newHost(t)
	for _, k := range h.kernels {
		t.Run(k.name, func(t *testing.T) {
			p := bootPair(t, h, k)
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) { s.run(t, p) })
			}
		})
	}
}
