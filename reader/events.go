package reader

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
)

// event is what the goroutines of the engine and of its parts send to the loop. A message of the
// destination is a heard value instead: boxed as an event it would be garbage.
//
//sumtype:decl
type event interface{ isEvent() }

// laneEvent is an event that holds a lane. A handler that does not use the lane closes it.
type laneEvent interface {
	event
	heldLane() transport.Lane
}

// The events.
type (
	// controlLost says that a control lane was lost.
	controlLost struct {
		control *wire.Control
		err     error
	}
	// greeting has a new control lane, on which HELLO is due.
	greeting struct{ control *wire.Control }
	// rejoined has a control lane on which the destination has answered RESUME.
	rejoined struct {
		control *wire.Control
		first   wire.Message
	}
	// refused says why a destination that was reached is no answer.
	refused struct{ why *transport.Fault }

	// lanesOpen says that the data lanes were dialled.
	lanesOpen struct{ err error }
	// laneFailed says that a data lane no longer carries anything.
	laneFailed struct {
		number int
		err    error
	}
	// laneBack has a data lane that replaces a lost one.
	laneBack struct {
		number int
		lane   transport.Lane
	}

	// entered says that the devices have made the plan's moves.
	entered struct {
		took time.Duration
		err  error
	}
	// polled and sized are answers of a driver, for the plan.
	polled struct{ plan.PrecopyPolled }
	sized  struct{ plan.SizePolled }
	// asked says that a driver has given all the answers of one poll.
	asked struct {
		device  int
		confirm bool // the poll is of ConfirmEstimates
		err     error
	}
	// drainEnded says that a stream was read to its end.
	drainEnded struct {
		device int
		end    wire.End
	}
	// drainFailed says that a stream was not read to its end.
	drainFailed struct {
		device int
		offset uint64
		err    error
	}

	// guestPaused is the owner's answer to PauseGuest.
	guestPaused struct{ err error }
	// guestResumed is the owner's answer to ResumeGuest, after a switchover that was called off.
	guestResumed struct{ err error }
	// approved is the owner's answer to Approve.
	approved struct{ err error }
	// witnessed is an answer of the witness, or its failure.
	witnessed struct {
		winner handoff.Side
		err    error
	}

	// halted ends the first step of the way back.
	halted struct {
		again []string // devices that needed a second try
		err   error
	}
	// resumed ends the way back.
	resumed struct {
		at    time.Time
		how   handoff.Return
		again []string // devices that needed a second try
		err   error    // of the devices
		guest error
	}
)

func (controlLost) isEvent()  {}
func (greeting) isEvent()     {}
func (rejoined) isEvent()     {}
func (refused) isEvent()      {}
func (lanesOpen) isEvent()    {}
func (laneFailed) isEvent()   {}
func (laneBack) isEvent()     {}
func (entered) isEvent()      {}
func (polled) isEvent()       {}
func (sized) isEvent()        {}
func (asked) isEvent()        {}
func (drainEnded) isEvent()   {}
func (drainFailed) isEvent()  {}
func (guestPaused) isEvent()  {}
func (guestResumed) isEvent() {}
func (approved) isEvent()     {}
func (witnessed) isEvent()    {}
func (halted) isEvent()       {}
func (resumed) isEvent()      {}

func (ev greeting) heldLane() transport.Lane { return ev.control.Lane() }
func (ev rejoined) heldLane() transport.Lane { return ev.control.Lane() }
func (ev laneBack) heldLane() transport.Lane { return ev.lane }

// heard is a message, and the control lane that it came on.
type heard struct {
	control *wire.Control
	message wire.Message
}
