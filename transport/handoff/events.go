package handoff

import (
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// SourceEvent is what a [Source] takes.
type SourceEvent interface{ isSourceEvent() }

// DestEvent is what a [Dest] takes.
type DestEvent interface{ isDestEvent() }

// The events.
type (
	// Received is a message of the peer.
	Received struct{ Message wire.Message }
	// Begin opens the attempt (source).
	Begin struct{}
	// Offered is a HELLO that the destination's engine has found acceptable. Both
	// sides have the same witness, or none.
	Offered struct {
		Attempt migration.Attempt
		Witness Register
	}
	// Refused is a HELLO that the destination's engine cannot accept. NoRecord means that there
	// is no journal of the migration, or that the journal excludes the attempt: nothing is
	// recorded, and the destination waits for the next source.
	Refused struct {
		Attempt  migration.Attempt
		Why      Failed
		NoRecord bool
	}
	// Drained means that the stopped source has sent every stream to its end.
	Drained struct{ Digest migration.StreamDigest }
	// Loaded means that every device of the destination holds its stream, in STOP.
	Loaded struct{ Digest migration.StreamDigest }
	// Failed means that this side cannot continue.
	Failed struct {
		Code   transport.Code
		Device string
		Offset uint64
		Text   string
	}
	// Unreachable means that the peer cannot be reached, or that the engine does not wait for it
	// any longer.
	Unreachable struct{}
	// Reached means that the conversation continues over a new control lane.
	Reached struct{}
	// Interrupt means that the user cancels.
	Interrupt struct{}
	// Leave means that the user ends the destination, and the complete copy stays as it is
	// recorded.
	Leave struct{}
	// Approved is the result of AskApproval: COMMIT may be sent. A refusal of the VMM is Failed
	// or Interrupt, as any other reason for the way back.
	Approved struct{}
	// Overdue means that the answer to COMMIT is so late that the source asks the witness
	// (source).
	Overdue struct{}
	// Witnessed is the result of AskWitness: the side that has the attempt's register, 0 if the
	// witness did not answer.
	Witnessed struct{ Winner Side }
	// Halted is the result of Halt.
	Halted struct{ Failed bool }
	// Resumed is the result of Resume.
	Resumed struct{ How Return }
	// Started means that every device of the destination was read back as RUNNING.
	Started struct{ TookNS int64 }
	// NotStarted means that the start failed. Copy says what the copy is now.
	NotStarted struct {
		Copy   Copy
		Device string
		Text   string
	}
	// WasReset is the result of Reset.
	WasReset struct{ Failed bool }
	// Unrecorded means that the journal may not have the last entry: its Append failed.
	Unrecorded struct{}
)

func (Received) isSourceEvent()    {}
func (Begin) isSourceEvent()       {}
func (Drained) isSourceEvent()     {}
func (Failed) isSourceEvent()      {}
func (Unreachable) isSourceEvent() {}
func (Reached) isSourceEvent()     {}
func (Interrupt) isSourceEvent()   {}
func (Approved) isSourceEvent()    {}
func (Overdue) isSourceEvent()     {}
func (Witnessed) isSourceEvent()   {}
func (Halted) isSourceEvent()      {}
func (Resumed) isSourceEvent()     {}
func (Unrecorded) isSourceEvent()  {}

func (Received) isDestEvent()    {}
func (Offered) isDestEvent()     {}
func (Refused) isDestEvent()     {}
func (Loaded) isDestEvent()      {}
func (Failed) isDestEvent()      {}
func (Unreachable) isDestEvent() {}
func (Reached) isDestEvent()     {}
func (Interrupt) isDestEvent()   {}
func (Leave) isDestEvent()       {}
func (Witnessed) isDestEvent()   {}
func (Started) isDestEvent()     {}
func (NotStarted) isDestEvent()  {}
func (WasReset) isDestEvent()    {}
func (Unrecorded) isDestEvent()  {}

// Return is how a way back ended.
type Return uint8

// How a way back ends.
const (
	Back    Return = iota // all devices run, and so does the guest, if there is one
	Unheard               // all devices run, and whether the guest does is not known
	NoneRan               // it failed, and no device has been in RUNNING or RUNNING_P2P
	SomeRan               // it failed, and some device has been in one of them, or may have been
)

// Copy is the destination's copy after a failed start.
type Copy uint8

// The copy after a failed start.
const (
	Kept    Copy = iota // in STOP, complete, never ran
	Dropped             // reset, never ran
	Unclear             // it cannot be excluded that it runs
)

// SourceAction is an action of the source's engine. The engine carries them out in order.
//
//sumtype:decl
type SourceAction interface{ isSourceAction() }

// DestAction is an action of the destination's engine. The engine carries them out in order.
//
//sumtype:decl
type DestAction interface{ isDestAction() }

// The actions.
type (
	// Append records an entry before any later action of the list. If it fails, the engine stops
	// the list, and the event is Unrecorded.
	Append struct{ Entry Entry }
	// Send sends a message, without a guarantee: the other side asks again for what it needs.
	Send struct{ Message wire.Message }
	// SendHello and SendWelcome are Send of messages that only the engine can
	// fill in.
	SendHello   struct{}
	SendWelcome struct{}
	// AskApproval asks the VMM, once, whether to commit (source, External). The result is
	// Approved, or a reason for the way back.
	AskApproval struct{}
	// AskWitness asks the attempt's register for the devices; the result is Witnessed.
	AskWitness struct{}
	// Halt takes the devices of the source to STOP that were stopped for the last part of their
	// streams. The result is Halted. A device that runs stays running.
	Halt struct{}
	// Resume takes the devices of the source to RUNNING. The result is Resumed. Reverted means
	// that COMMIT may have been recorded: OnRevert runs first.
	Resume struct{ Reverted bool }
	// Release releases the stopped devices of the source.
	Release struct{}
	// Start runs the destination devices; the result is Started or NotStarted.
	Start struct{}
	// Reset discards what the devices of the destination hold. The result is WasReset.
	Reset struct{}
	// Finish ends the engine's work.
	Finish struct{ Outcome migration.Outcome }
)

func (Append) isSourceAction()      {}
func (Send) isSourceAction()        {}
func (SendHello) isSourceAction()   {}
func (AskApproval) isSourceAction() {}
func (AskWitness) isSourceAction()  {}
func (Halt) isSourceAction()        {}
func (Resume) isSourceAction()      {}
func (Release) isSourceAction()     {}
func (Finish) isSourceAction()      {}

func (Append) isDestAction()      {}
func (Send) isDestAction()        {}
func (SendWelcome) isDestAction() {}
func (AskWitness) isDestAction()  {}
func (Start) isDestAction()       {}
func (Reset) isDestAction()       {}
func (Finish) isDestAction()      {}
