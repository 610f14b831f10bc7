package writer

import (
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// event is what the loop takes from the goroutines of the engine and of its parts.
//
//sumtype:decl
type event interface{ isEvent() }

// The events.
type (
	// admitted has a lane that has said what it is for.
	admitted struct {
		lane    transport.Lane
		pre     wire.Preamble
		control *wire.Control // of a control lane, and the
		first   wire.Message  // first that was said there
	}
	// acceptFailed says that no more lanes are accepted.
	acceptFailed struct{ err error }
	// answered says that a conversation about a journal has ended.
	answered struct{ peer transport.PeerID }
	// preflightHeard says what a preflight has to tell the user.
	preflightHeard struct{ event migration.Event }
	// alarmed says that another goroutine has met a source which raises an alarm.
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
	// laneEnded says that a receiver has nothing more to receive, or could not go on.
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

	// prepared says that the devices are in RESUMING, or could not be taken there.
	prepared struct {
		took  time.Duration
		err   error
		probe probed
	}
	// witnessed is an answer of the witness, or none.
	witnessed struct {
		winner handoff.Side
		err    error
	}
	// started says that the devices run, or what has become of the copy.
	started struct {
		took   time.Duration
		accept time.Duration // the hook, which ran before; 0 for none
		err    error
		copy   handoff.Copy
	}
	// guestStarted says that StartGuest has ended.
	guestStarted struct {
		devices, took time.Duration // the start of the devices, and then the guest's
		err           error
	}
	// wasReset says that the devices are reset, or could not be.
	wasReset struct {
		err   error
		stuck bool // a driver has not let go of a write
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
