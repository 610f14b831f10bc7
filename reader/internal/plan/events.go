package plan

import (
	"time"

	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Event is an event of the plan.
//
//sumtype:decl
type Event interface{ isEvent() }

// The events.
type (
	// LanesOpened says that the data lanes are open.
	LanesOpened struct{}
	// LanesWarmed is the answer to WarmLanes: the lanes were padded and measured.
	LanesWarmed struct{}
	// StatesReached is the answer to EnterStates: every device has reached its state.
	StatesReached struct{}
	// GuestPaused is the answer to PauseGuest.
	GuestPaused struct{}
	// EstimatesConfirmed is the answer to ConfirmEstimates: the devices were polled since.
	EstimatesConfirmed struct{}
	// GuestResumed is the answer to ResumeGuest.
	GuestResumed struct{}
	// ConnectionLost says that the destination is out of reach.
	ConnectionLost struct{}
	// ConnectionRestored says that the destination is in reach again.
	ConnectionRestored struct {
		Away time.Duration // how long it was out of reach
	}
	// TimePassed says that time has passed.
	TimePassed struct{}
	// StreamEnded says that a stream was read to its end.
	StreamEnded struct{ Device int }
	// PrecopyPolled is an answer of GET_PRECOPY_INFO.
	PrecopyPolled struct {
		Device  int
		Offset  uint64 // bytes read by then
		Idle    bool   // the device had nothing more to read
		Pending vfio.Pending
	}
	// SizePolled is an answer of MIG_DATA_SIZE.
	SizePolled struct {
		Device int
		Bytes  uint64
	}
	// Measured is the progress of the streams, by device, and their speeds. A *Measured is an
	// event: its sender may change it once Step has returned.
	Measured struct {
		Drained, Applied []uint64 // bytes
		Path             Path
		Stop, Start      migration.Span // of the devices here and there, as far as measured
		Save, Load       []float64      // bytes a second, 0 is unknown
	}
)

func (LanesOpened) isEvent()        {}
func (LanesWarmed) isEvent()        {}
func (StatesReached) isEvent()      {}
func (GuestPaused) isEvent()        {}
func (EstimatesConfirmed) isEvent() {}
func (GuestResumed) isEvent()       {}
func (ConnectionLost) isEvent()     {}
func (ConnectionRestored) isEvent() {}
func (TimePassed) isEvent()         {}
func (StreamEnded) isEvent()        {}
func (PrecopyPolled) isEvent()      {}
func (SizePolled) isEvent()         {}
func (*Measured) isEvent()          {}

// Action is an action of the plan.
//
//sumtype:decl
type Action interface{ isAction() }

// The actions.
type (
	// EnterStates moves devices, all at once. The answer is StatesReached.
	EnterStates struct{ Moves []Move }
	// WarmLanes pads the lanes. The answer is LanesWarmed.
	WarmLanes struct{}
	// PauseGuest begins a switchover. The answer is GuestPaused.
	PauseGuest struct {
		Why       string
		Predicted migration.Forecast // of this switchover
	}
	// ConfirmEstimates polls every device in PRE_COPY. The answers are PrecopyPolled, and
	// EstimatesConfirmed after the last of them.
	ConfirmEstimates struct{}
	// ResumeGuest calls the switchover off. The answer is GuestResumed.
	ResumeGuest struct{}
	// EndStream reports a complete stream to the destination.
	EndStream struct{ Device int }
	// ReportDrained reports to the hand-off that every stream is complete.
	ReportDrained struct{}
	// WarnUser emits a warning.
	WarnUser struct{ Text string }
	// EndAttempt ends the attempt.
	EndAttempt struct{ Cause *LimitError }
)

func (EnterStates) isAction()      {}
func (WarmLanes) isAction()        {}
func (PauseGuest) isAction()       {}
func (ConfirmEstimates) isAction() {}
func (ResumeGuest) isAction()      {}
func (EndStream) isAction()        {}
func (ReportDrained) isAction()    {}
func (WarnUser) isAction()         {}
func (EndAttempt) isAction()       {}

// Move is the transition of one device.
type Move struct {
	Device int
	To     vfio.State
}
