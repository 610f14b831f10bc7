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
	// Refused is a HELLO that the destination's engine cannot accept. With NoRecord no
	// journal of the migration exists, or the journal shuts the attempt out: nothing is
	// recorded, and the destination waits on.
	Refused struct {
		Attempt  migration.Attempt
		Why      Failed
		NoRecord bool
	}
	// Drained says that every stream of the stopped source was sent to its end.
	Drained struct{ Digest migration.StreamDigest }
	// Loaded says that every destination device holds its stream, in STOP.
	Loaded struct{ Digest migration.StreamDigest }
	// Failed says that this side cannot go on.
	Failed struct {
		Code   transport.Code
		Device string
		Offset uint64
		Text   string
	}
	// Unreachable says that the peer cannot be reached any more, or that nobody waits for
	// it any longer.
	Unreachable struct{}
	// Reached says that a lost conversation goes on, over a new control lane.
	Reached struct{}
	// Interrupt is the user's wish to cancel.
	Interrupt struct{}
	// Leave is the user's wish that the destination ends and leaves a complete copy as it
	// is recorded.
	Leave struct{}
	// Approved is the result of AskApproval: COMMIT may be said. The owner's no is
	// Failed or Interrupt, like any other reason to turn back.
	Approved struct{}
	// Overdue says that the answer to COMMIT has not come for so long that a witness
	// is worth asking (source).
	Overdue struct{}
	// Witnessed is the result of AskWitness: who has the attempt's register, 0 if
	// that could not be found out.
	Witnessed struct{ Winner Side }
	// Halted is the result of Halt.
	Halted struct{ Failed bool }
	// Resumed is the result of Resume.
	Resumed struct{ How Return }
	// Started says that every destination device is read back as RUNNING.
	Started struct{ TookNS int64 }
	// NotStarted says that the start failed, and what became of the copy.
	NotStarted struct {
		Copy   Copy
		Device string
		Text   string
	}
	// WasReset is the result of Reset.
	WasReset struct{ Failed bool }
	// Unrecorded says that the journal did not take the last entry, or that
	// nobody knows whether it did.
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
	Back    Return = iota // all devices run, and the guest where one is asked
	Unheard               // all devices run, and whether the guest does is not known
	NoneRan               // it failed, and no device has been in RUNNING or RUNNING_P2P
	SomeRan               // it failed, and some device has been there, or may have been
)

// Copy is what a failed start left of the destination's copy.
type Copy uint8

// What a failed start leaves.
const (
	Kept    Copy = iota // in STOP, complete, never ran
	Dropped             // reset, never ran
	Unclear             // it cannot be excluded that it runs
)

// SourceAction is something that the source's engine does, in the order given.
//
//sumtype:decl
type SourceAction interface{ isSourceAction() }

// DestAction is something that the destination's engine does, in the order given.
//
//sumtype:decl
type DestAction interface{ isDestAction() }

// The actions.
type (
	// Append records before anything after it is done; a failure stops the
	// list and becomes the event Unrecorded.
	Append struct{ Entry Entry }
	// Send sends a message. It is best effort: what must not be lost is asked
	// for again by the other side.
	Send struct{ Message wire.Message }
	// SendHello and SendWelcome are Send of messages that only the engine can
	// fill in.
	SendHello   struct{}
	SendWelcome struct{}
	// AskApproval asks the owner of the VM, once, whether to commit (source, External);
	// the result is Approved, or a reason to turn back.
	AskApproval struct{}
	// AskWitness asks the attempt's register for the devices; the result is Witnessed.
	AskWitness struct{}
	// Halt takes the source devices to STOP, those that were stopped for the last part of
	// their streams; the result is Halted. A device that runs is left alone.
	Halt struct{}
	// Resume brings the source devices back to RUNNING; the result is Resumed. With
	// Reverted COMMIT may have been recorded before, and whoever was told is told.
	Resume struct{ Reverted bool }
	// Release lets go of the stopped source devices.
	Release struct{}
	// Start runs the destination devices; the result is Started or NotStarted.
	Start struct{}
	// Reset drops what the destination devices hold; the result is WasReset.
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
