package vfio

import "fmt"

// arcs is the kernel's table of first arcs (vfio_mig_get_next_state in
// drivers/vfio/vfio_main.c) for a device that has every feature: the row is
// the current state, the column the requested one. The zero value, Error,
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

// Has reports whether a device with these features has the state s. ERROR is
// never had: it cannot be asked for.
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
// way from one state to another, skipping the states that it lacks; from
// itself when there is nothing to do.
//
// It fails with ErrInError for a device in ERROR, with ErrUnsupportedState for
// a state that the device lacks (ERROR and unknown numbers included), and with
// ErrBlocked for STOP_COPY -> PRE_COPY and STOP_COPY -> PRE_COPY_P2P. Kernels
// without a26b499b757c never return from that last request, so it must not
// reach them.
func Next(from, to State, f Features) (State, error) {
	if from == Error {
		return Error, ErrInError
	}
	for _, s := range []State{from, to} {
		if !f.Has(s) {
			return Error, fmt.Errorf("%v: %w", s, ErrUnsupportedState)
		}
	}
	next := arcs[from][to]
	for next != Error && !f.Has(next) {
		next = arcs[next][to]
	}
	if next == Error {
		return Error, ErrBlocked
	}
	return next, nil
}

// Path returns the states that a device with features f walks through from one
// state to another, the last included and the first not: nothing when they are
// the same. Its errors are those of [Next].
func Path(from, to State, f Features) ([]State, error) {
	var path []State
	for s := from; s != to || s == Error; {
		next, err := Next(s, to, f)
		if err != nil {
			return nil, err
		}
		path = append(path, next)
		s = next
	}
	return path, nil
}

// Legal says why a device with features f may not be asked to go from one
// state to another, and nil when it may. Its errors are those of [Next].
//
// PRE_COPY -> STOP and PRE_COPY_P2P -> STOP are legal and throw the saving
// session away: a pre-copy is finished by asking for STOP_COPY.
func Legal(from, to State, f Features) error {
	_, err := Next(from, to, f)
	return err
}

// OpensSession reports whether the kernel opens a data session for a request
// that succeeds: one to read where to is a saving state (see [State.Saving]),
// one to write where it is RESUMING. A request inside the saving states keeps
// the session that is open.
func OpensSession(from, to State) bool {
	if to == Resuming {
		return from != Resuming
	}
	return to.Saving() && !from.Saving()
}

// RunStep is one step of a set of devices to RUNNING.
type RunStep struct {
	P2P bool  // of the devices with, or of those without, RUNNING_P2P
	To  State // where they go
}

// RunOrder is how a set of devices goes to RUNNING, step by step, so that none
// is stopped while another could reach it by DMA: first all that have P2P answer
// it, then those without run, then all initiate it (include/uapi/linux/vfio.h on
// RUNNING_P2P).
func RunOrder() [3]RunStep {
	return [...]RunStep{{true, RunningP2P}, {false, Running}, {true, Running}}
}
