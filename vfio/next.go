package vfio

import "fmt"

// arcs is the kernel's table of first arcs (vfio_mig_get_next_state in
// drivers/vfio/vfio_main.c) for a device that has every feature. The row is
// the current state, the column the requested one. The zero value, StateError,
// marks a request that has no arc.
var arcs = [8][8]State{
	Stop: {
		Stop: Stop, Running: RunningP2P, StopCopy: StopCopy, Resuming: Resuming,
		RunningP2P: RunningP2P, PreCopy: RunningP2P, PreCopyP2P: RunningP2P,
	},
	Running: {
		Stop: RunningP2P, Running: Running, StopCopy: RunningP2P, Resuming: RunningP2P,
		RunningP2P: RunningP2P, PreCopy: PreCopy, PreCopyP2P: RunningP2P,
	},
	StopCopy: { // PRE_COPY and PRE_COPY_P2P stay blocked: see Next
		Stop: Stop, Running: Stop, StopCopy: StopCopy, Resuming: Stop, RunningP2P: Stop,
	},
	Resuming: {
		Stop: Stop, Running: Stop, StopCopy: Stop, Resuming: Resuming,
		RunningP2P: Stop, PreCopy: Stop, PreCopyP2P: Stop,
	},
	RunningP2P: {
		Stop: Stop, Running: Running, StopCopy: Stop, Resuming: Stop,
		RunningP2P: RunningP2P, PreCopy: Running, PreCopyP2P: PreCopyP2P,
	},
	PreCopy: {
		Stop: Running, Running: Running, StopCopy: PreCopyP2P, Resuming: Running,
		RunningP2P: Running, PreCopy: PreCopy, PreCopyP2P: PreCopyP2P,
	},
	PreCopyP2P: {
		Stop: RunningP2P, Running: RunningP2P, StopCopy: StopCopy, Resuming: RunningP2P,
		RunningP2P: RunningP2P, PreCopy: PreCopy, PreCopyP2P: PreCopyP2P,
	},
}

// Has reports whether a device with these features has the state s, so that it
// can be requested. It is false for ERROR, which cannot be requested.
func (f Features) Has(s State) bool {
	switch s {
	case Stop, Running, StopCopy, Resuming:
		return true
	case RunningP2P:
		return f.P2P
	case PreCopy:
		return f.PreCopy
	case PreCopyP2P:
		return f.P2P && f.PreCopy
	}
	return false
}

// Next returns the first state that a device with features f reaches on its
// way from one state to another. It skips the states that the device lacks. It
// returns from itself if both are the same.
//
// It fails with ErrInError for a device in ERROR, with ErrUnsupportedState for
// a state that the device lacks (ERROR and unknown numbers included), and with
// ErrBlocked for STOP_COPY -> PRE_COPY and STOP_COPY -> PRE_COPY_P2P. Kernels
// without a26b499b757c never return from the last request: it must not reach
// them.
func Next(from, to State, f Features) (State, error) {
	if from == StateError {
		return StateError, ErrInError
	}
	for _, s := range []State{from, to} {
		if !f.Has(s) {
			return StateError, fmt.Errorf("%v: %w", s, ErrUnsupportedState)
		}
	}
	next := arcs[from][to]
	for next != StateError && !f.Has(next) {
		next = arcs[next][to]
	}
	if next == StateError {
		return StateError, ErrBlocked
	}
	return next, nil
}

// Path returns the states that a device with features f walks through from one
// state to another. It includes the last state and excludes the first. It is
// empty if both are the same. Its errors are those of [Next].
func Path(from, to State, f Features) ([]State, error) {
	var path []State
	for s := from; s != to || s == StateError; {
		next, err := Next(s, to, f)
		if err != nil {
			return nil, err
		}
		path = append(path, next)
		s = next
	}
	return path, nil
}

// Legal returns nil if a device with features f may be requested to go from
// one state to another, and otherwise the reason why not. Its errors are those
// of [Next].
//
// PRE_COPY -> STOP and PRE_COPY_P2P -> STOP are legal and discard the saving
// session. A request for STOP_COPY completes a pre-copy.
func Legal(from, to State, f Features) error {
	_, err := Next(from, to, f)
	return err
}

// OpensSession reports whether the kernel opens a data session for a request
// that succeeds. The session is read if to is a saving state (see
// [State.Saving]), and written if to is RESUMING. A request from one saving
// state to another keeps the open session.
func OpensSession(from, to State) bool {
	if to == Resuming {
		return from != Resuming
	}
	return to.Saving() && !from.Saving()
}

// RunStep is one step of a set of devices to RUNNING.
type RunStep struct {
	P2P bool  // whether the step moves the devices with RUNNING_P2P, or those without
	To  State // the state that they go to
}

// RunOrder returns the steps by which a set of devices goes to RUNNING. The
// order keeps a running device from reaching a stopped one by DMA
// (include/uapi/linux/vfio.h on RUNNING_P2P):
//  1. The devices with P2P go to RUNNING_P2P, where they answer DMA.
//  2. The devices without P2P go to RUNNING.
//  3. The devices with P2P go to RUNNING, where they initiate DMA.
func RunOrder() [3]RunStep {
	return [...]RunStep{{true, RunningP2P}, {false, Running}, {true, Running}}
}
