package migration

import (
	"time"

	"github.com/migpipe/migpipe/transport"
)

// Report is the result of a migration, as one side saw it.
type Report struct {
	Outcome  Outcome
	Attempt  Attempt
	Peer     transport.PeerID // zero where the carrier has no identities
	Total    time.Duration    // from the first byte of a stream, or from the pause of the guest if that came first, to RUNNING
	Downtime time.Duration    // from the pause of the guest to RUNNING at the destination
	Stages   []Stage          // the downtime, in order
	// CalledOff is how long the guest was paused before, in switchovers that were called off
	// (source only).
	CalledOff time.Duration
	// Predicted is the forecast of the switchover when it was decided; nil if it never was
	// (source only).
	Predicted *Forecast
	// Occupancy is how full the stages were from the beginning, and StopOccupancy from the pause
	// of the guest, until all was at the destination.
	Occupancy, StopOccupancy Occupancy
	Lanes                    int
	Carrier                  transport.Carrier // of the lanes, as this side sees it
	Devices                  []Device
	// CopyThere is a copy of the attempt at the destination that the source did not abort, since
	// its way back has failed, or may have; nil for none (source only).
	CopyThere *CopyThere
	// GuestUnheard means that the devices run, and that the VMM has not confirmed that the guest
	// was resumed (source only).
	GuestUnheard bool
	Warnings     []string
}

// CopyThere is a complete copy at the destination, which may be the only one that works. No
// later attempt ends it: a person decides.
type CopyThere struct {
	Ready  bool // the destination has reported it as complete
	Rescue bool // no device has run here since: a person may have the copy run, see handoff.CommitThere
}

// Names of the downtime's stages, in order.
const (
	StageStop   = "stop"   // from the pause of the guest until every device is in STOP_COPY
	StageFill   = "fill"   // until the destination has written the first chunk
	StageSave   = "save"   // until every device is read
	StageWire   = "wire"   // until the last chunk is sent
	StageLoad   = "load"   // until READY: every device has it
	StageDecide = "decide" // until the VMM has answered, if it is asked

	StageCommit  = "commit"    // COMMIT and its answer, without the steps below
	StageWitness = "witness"   // until the witness has answered, if there is one
	StageAccept  = "on-accept" // until the hook on ACCEPT has ended, if there is one
	StageStart   = "start"     // until the devices run, and the guest, if there is one
)

// Stage is one part of the downtime.
type Stage struct {
	Name string
	Took time.Duration
}

// Occupancy is how full the stages of one side were over some time: parts of the memory for its
// chunks, from 0 to 1. The rest of the memory was free. All fields are zero where nothing is
// known.
type Occupancy struct {
	// Queue is, at the source, the chunks that wait for a lane; at the destination, the chunks in
	// order that wait for their device, or are being written.
	Queue float64
	// Credit is the chunks that wait for memory of the destination (source only).
	Credit float64
	// Flight is the chunks that a lane has taken, and that are not acknowledged (source only).
	Flight float64
	// Ahead is the chunks that wait for an earlier one (destination only).
	Ahead float64
	// Bottleneck is the stage for which the others have waited for more than half of the time in
	// which any waited: one of the names below, "" if next to nothing was to be moved. For a
	// whole downtime it may be a stage in which no state moves (StageWitness).
	Bottleneck string
}

// What a migration waits for.
const (
	BoundSave    = "save"     // the source's devices give no more (source only)
	BoundCodec   = "codec"    // the lanes are busy, more with encoding than with writing (source only)
	BoundNetwork = "network"  // the lanes are busy, more with writing than with encoding, or bytes take long to arrive (source only)
	BoundArrival = "arrival"  // no chunk waits: the network or the source has none (destination only)
	BoundLoad    = "load"     // the destination's devices take no more
	Balanced     = "balanced" // none of these alone
)

// NameBottleneck sets the bottleneck of StopOccupancy to the step that took most of the
// downtime, if no state moves in that step: the occupancy of the stages does not show such a
// step. If the guest did not move, the steps are not known, and there is no bottleneck.
func (r *Report) NameBottleneck() {
	if r.Outcome != Committed {
		r.StopOccupancy.Bottleneck = ""
		return
	}
	var steps, all time.Duration
	var longest Stage
	for _, s := range r.Stages {
		all += s.Took
		switch s.Name { // a peer may have chosen other names
		case StageStop, StageDecide, StageCommit, StageWitness, StageAccept, StageStart:
			steps += s.Took
			if s.Took > longest.Took {
				longest = s
			}
		}
	}
	if steps > all/2 {
		r.StopOccupancy.Bottleneck = longest.Name
	}
}

// PredictionError is how much longer the downtime was than predicted, relative to the
// prediction: 0.1 is a tenth longer. ok is false if there is no prediction, or the guest did not
// move. A prediction with an unknown part counts only if the downtime was shorter than its known
// parts.
func (r Report) PredictionError() (off float64, ok bool) {
	if r.Outcome != Committed || r.Predicted == nil || r.Predicted.Downtime.Took <= 0 {
		return 0, false
	}
	if said := r.Predicted.Downtime; !said.Known && r.Downtime >= said.Took {
		return 0, false
	}
	return r.Downtime.Seconds()/r.Predicted.Downtime.Took.Seconds() - 1, true
}

// Device is one device's part of a Report.
type Device struct {
	Name         string
	Bytes        uint64 // of the stream
	WireBytes    uint64 // of chunk payloads as they were sent
	PrecopyBytes uint64 // of Bytes, read while the guest ran (source only)
	Chunks       uint64
	Rounds       int // of PRE_COPY (source only)
	Digest       StreamDigest
	Path         string // how bytes left or entered the device: "read", "splice", "write"
	PathWhy      string // the probe's verdict, where there was one
	State        string // the state the device was last seen in
	// Save and Load are the times for reading and for writing the device once the guest was
	// paused (source only; Load as the destination has reported it).
	Save, Load time.Duration
}

// Kind is the kind of an Event.
type Kind string

// The kinds of event.
const (
	Listening Kind = "listening"     // Text is the address, before anything else (destination only)
	Peer      Kind = "peer"          // the peer is authenticated; Text is its software
	Phase     Kind = "phase"         // Phase is the new phase
	Progress  Kind = "progress"      // Devices is a snapshot
	Warning   Kind = "warning"       // Text
	Lost      Kind = "path-lost"     // the connection is lost, and this side waits for the other; Text is why
	Restored  Kind = "path-restored" // the connection is back
	Ready     Kind = "ready"         // all is at the destination, and the VMM is asked whether to commit; Attempt, Downtime (source only)
	Accepted  Kind = "accept"        // the devices run, and the VMM is asked to start the guest; Attempt (destination only)
	Held      Kind = "held"          // the user has cancelled, and this side holds a complete copy for a source that is away; Peer, Attempt (destination only)
	Alarm     Kind = "alarm"         // both sides may run; Text, Attempt of this side
	Refused   Kind = "refused"       // a source was refused, or ended before it sent anything; this side waits for the next; Peer, Attempt, Err, More (destination only)
	Asked     Kind = "preflight"     // a source made a dry run; Text is its software (destination only)
)

// Phases of a migration, in order.
const (
	Connect  = "connect"
	PreCopy  = "pre-copy"
	WarmUp   = "warm-up" // the lanes are padded, before a switchover over a path that was never full (source only)
	Stop     = "stop"
	StopCopy = "stop-copy"
	Commit   = "commit"
	Running  = "running"
	Rollback = "rollback"
)

// Moves reports whether state of devices moves in a phase. In the other phases no rate is current.
func Moves(phase string) bool {
	return phase == PreCopy || phase == WarmUp || phase == Stop || phase == StopCopy
}

// Event is an event of a running migration.
type Event struct {
	Kind      Kind
	Phase     string
	Text      string
	Peer      transport.PeerID // of Kind Peer, Asked, Held and Refused; zero where the carrier has no identities
	Err       error            // of Kind Asked: why a migration would be refused, nil if it would not; of Kind Refused: why the source was
	More      int              // of Kind Refused: how many refusals since the last event had none of their own
	Devices   []Snapshot       // in HELLO's order
	Way       Way              // of Kind Progress
	Occupancy Occupancy        // of Kind Progress: in the last second or two
	Waiting   *Waiting         // of Kind Progress: pre-copy continues only because of the downtime target, else nil (source only)
	Attempt   Attempt          // zero before one is known; of Kind Alarm the recorded one, of Kind Refused the refused one
	Downtime  time.Duration    // of Kind Ready: so far
	// Predicted is the forecast, of Kind Phase when the switchover begins.
	Predicted *Forecast
}

// Waiting means that PRE_COPY has sent everything once, and continues only because a switchover
// now would take longer than the target. The remaining bytes do not predict its end: it ends
// when the guest is quieter, or at a cap.
type Waiting struct {
	Limit    time.Duration
	Downtime Span // of a stop now
}

// Snapshot is one device's progress.
type Snapshot struct {
	Name      string
	Phase     string
	Bytes     uint64 // drained at the source, applied at the destination
	Wire      uint64 // payload bytes sent or received
	Applied   uint64 // applied at the destination, as far as this side knows
	Remaining uint64 // by the driver's estimates: a hint
	Known     bool   // whether there was an estimate at all
	Window    uint64 // the most that may be read and not applied, 0 if only memory limits it (source only)
	Rates
}

// Rates are how fast the bytes of one device move, in bytes per second, each measured by itself;
// 0 if a rate is not known, or not current (source only).
type Rates struct {
	Save float64 // while the device is read
	Wire float64 // that the lanes have lately taken, encoded
	Load float64 // while the destination's device is written
}

// Way is the measurement of the path to the destination so far (source only).
type Way struct {
	Goodput float64       // bytes per second of all devices that are applied when the path is full, 0 if not known
	RTT     time.Duration // of a control message and its answer, 0 if not known
}

// Observer receives each event, from one goroutine at a time. It must not block.
type Observer func(Event)

// Over notes the carrier of the migration, and warns if the kernel gives it less than it
// needs.
func (r *Report) Over(lane transport.Lane) {
	was := r.Carrier
	r.Carrier = transport.CarrierOf(lane)
	if hint := r.Carrier.Hint(); hint != "" && was.Hint() == "" {
		r.Warnings = append(r.Warnings, hint)
	}
}
