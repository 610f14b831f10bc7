// Package guestapi is the protocol between the VM test and the program inside its guests:
// net/rpc with the JSON codec, one message a line, over the guest's second serial port. Calls
// are answered in any order, so that a long Wait does not delay a Signal.
package guestapi

import "time"

// Service is the name the guest's methods are registered under.
const Service = "Guest"

// Ready is the line the guest writes before it serves its first call. A port that the
// guest has not opened loses what the host sends earlier.
const Ready = "guest ready\n"

// AddressEnv is the kernel parameter, and so the variable of init's
// environment, that holds the address of the guest's network interface.
const AddressEnv = "GUEST_ADDRESS"

// Command is a program to start in the guest.
type Command struct {
	Argv  []string
	Env   []string // added to the guest's own
	Files []int    // handles of held devices, inherited as fd 3, 4, ...
}

// Wait asks for the end of a program.
type Wait struct {
	Process int
	Timeout time.Duration
	Brief   bool // only the exit status: output is expensive for a guest without KVM
}

// Result is a program's output so far, and its exit status.
type Result struct {
	Stdout, Stderr string
	Exited         bool
	Exit           int // -1: by a signal
}

// Signal sends a signal to a program.
type Signal struct {
	Process int
	Signal  int
}

// File is a file's name and content.
type File struct {
	Path string
	Data []byte
}

// Region is an access to a held device's region, N bytes long or of Data.
type Region struct {
	Device int
	Index  uint32 // VFIO_PCI_BAR0_REGION_INDEX, ...
	Offset uint64
	N      int
	Data   []byte
}

// SetState is a request to move a held device to a migration state.
type SetState struct {
	Device int
	State  uint32
}
