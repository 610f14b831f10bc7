package writer

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// event is what the goroutines of the engine and of its parts send to the loop.
//
//sumtype:decl
type event interface{ isEvent() }

// The events.
type (
	// admitted has a lane whose preamble was read.
	admitted struct {
		lane    transport.Lane
		pre     wire.Preamble
		control *wire.Control // of a control lane
		first   wire.Message  // its first message
	}
	// acceptFailed says that no further lanes are accepted.
	acceptFailed struct{ err error }
	// answered says that a conversation about a journal has ended.
	answered struct{ peer transport.PeerID }
	// preflightHeard has an event of a preflight for the user.
	preflightHeard struct{ event migration.Event }
	// alarmed has an alarm that another goroutine found.
	alarmed struct{ event migration.Event }

	// controlLost says that a control lane was lost.
	controlLost struct {
		control *wire.Control
		err     error
	}
	// heard has a message of the source.
	heard struct {
		control *wire.Control
		message wire.Message
	}
	// laneEnded says that a receiver has nothing more to receive, or has failed.
	laneEnded struct {
		receiver *receiver
		fault    *transport.Fault
		lost     bool // the source may dial the lane again
	}
	// loaderEnded says that a device holds its whole stream, or never will.
	loaderEnded struct {
		device int
		digest migration.StreamDigest
		fault  *transport.Fault
	}

	// prepared says that the devices are in RESUMING, or could not enter it.
	prepared struct {
		took  time.Duration
		err   error
		probe probed
	}
	// witnessed is an answer of the witness, or its failure.
	witnessed struct {
		winner handoff.Side
		err    error
	}
	// started says that the devices run, or what has become of the copy.
	started struct {
		took   time.Duration
		accept time.Duration // time of the hook that ran before; 0 for none
		err    error
		copy   handoff.Copy
	}
	// guestStarted says that StartGuest has ended.
	guestStarted struct {
		devices, took time.Duration // time of the start of the devices, and then of the guest
		err           error
	}
	// wasReset says that the devices are reset, or could not be.
	wasReset struct {
		err   error
		stuck bool // a driver has not returned from a write
	}
	// warned has a fault with which the attempt continues.
	warned struct{ err error }
)

func (admitted) isEvent()       {}
func (acceptFailed) isEvent()   {}
func (answered) isEvent()       {}
func (preflightHeard) isEvent() {}
func (alarmed) isEvent()        {}
func (controlLost) isEvent()    {}
func (heard) isEvent()          {}
func (laneEnded) isEvent()      {}
func (loaderEnded) isEvent()    {}
func (prepared) isEvent()       {}
func (witnessed) isEvent()      {}
func (started) isEvent()        {}
func (guestStarted) isEvent()   {}
func (wasReset) isEvent()       {}
func (warned) isEvent()         {}
