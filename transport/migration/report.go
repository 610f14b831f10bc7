package migration

import (
	"time"

	"github.com/migpipe/migpipe/transport"
)

// Report is how a migration went, as seen from one side.
type Report struct {
	Outcome  Outcome
	Attempt  Attempt
	Peer     transport.PeerID // zero where the carrier does not know it
	Total    time.Duration    // from the first byte of a stream, or from the pause of the guest if that came first, to RUNNING
	Downtime time.Duration    // from the pause of the guest to RUNNING at the destination
	Stages   []Stage          // the downtime, in order
	// CalledOff is how long the guest stood still before, in stops that were called
	// off (source only).
	CalledOff time.Duration
	// Predicted is what the stop was expected to take when it was decided; nil if
	// it never was (source only).
	Predicted *Forecast
	// Occupancy and StopOccupancy are how full the stages were in all, and from the pause of the
	// guest until all was at the destination. What came after that is in neither.
	Occupancy, StopOccupancy Occupancy
	Lanes                    int
	Carrier                  transport.Carrier // of the lanes, as this side sees it
	Devices                  []Device
	// CopyThere is a copy of the attempt at the destination that was not ended, since the way
	// back has failed, or is not known to have ended well; nil for none (source only).
	CopyThere *CopyThere
	// GuestUnheard says that the guest was to be resumed, that nothing says that it was,
	// and that the devices run (source only).
	GuestUnheard bool
	Warnings     []string
}

// CopyThere is a complete copy at the destination, which may be the only one that works. No
// later attempt ends it: a person decides.
type CopyThere struct {
	Ready  bool // the destination has said that it is complete
	Rescue bool // no device here has run since: the copy may be run there, see handoff.CommitThere
}

// Names of the downtime's stages, in order.
const (
	StageStop   = "stop"   // from the pause of the guest until every device is in STOP_COPY
	StageFill   = "fill"   // until the destination has written the first of what is read there
	StageSave   = "save"   // until every device is read
	StageWire   = "wire"   // until the last of it is sent
	StageLoad   = "load"   // until READY: every device has it
	StageDecide = "decide" // the owner's word, where it is asked for

	StageCommit  = "commit"    // COMMIT and its answer, without the steps below
	StageWitness = "witness"   // until the witness has answered, where there is one
	StageAccept  = "on-accept" // until the hook on ACCEPT has ended, where there is one
	StageStart   = "start"     // until the devices, and the guest where it is asked for, run
)

// Stage is one part of the downtime.
type Stage struct {
	Name string
	Took time.Duration
}

// Occupancy is how full the stages of one side were over some time: parts of the memory for
// its chunks, from 0 to 1. What is missing from the sum was free. All of it is zero where
// nothing is known.
type Occupancy struct {
	// At the source: read, and waiting for a lane. At the destination: in order, and
	// waiting for its device, or being written.
	Queue float64
	// Read, and waiting for memory of the destination (source only).
	Credit float64
	// Taken by a lane, and not acknowledged (source only).
	Flight float64
	// Come before one that is to be written first (destination only).
	Ahead float64
	// Bottleneck is what everything else has waited for, for more than half of the time
	// in which anything did: one of the names below, "" where next to nothing was to be
	// moved. Of a whole downtime it may be a stage in which no state moves (StageWitness).
	Bottleneck string
}

// What a migration waits for.
const (
	BoundSave    = "save"     // the source's devices give no more (source only)
	BoundCodec   = "codec"    // the lanes are busy, more with encoding than with writing (source only)
	BoundNetwork = "network"  // or the other way round, or what is on its way takes long to arrive (source only)
	BoundArrival = "arrival"  // no chunk is there: the network or the source has none (destination only)
	BoundLoad    = "load"     // the destination's devices take no more
	Balanced     = "balanced" // none of these alone
)

// NameBottleneck has StopOccupancy name the step of the downtime that took most of it, if
// that is none in which state moves: the occupancy of the stages says nothing of such a step.
// Where the guest did not move, the steps are not known, and no bottleneck is named.
func (r *Report) NameBottleneck() {
	if r.Outcome != Committed {
		r.StopOccupancy.Bottleneck = ""
		return
	}
	var steps, all time.Duration
	var longest Stage
	for _, s := range r.Stages {
		all += s.Took
		switch s.Name { // other names than ours a peer may have chosen
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

// PredictionError is how much longer the downtime was than predicted, relative to
// the prediction: 0.1 is a tenth longer. ok is false where there is nothing to
// compare: nothing was predicted, or the guest did not move. A prediction with an unknown
// part is compared only if the downtime was shorter than its known parts.
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
	// Save and Load are what reading the device and writing it took once the guest
	// stood still (source only; Load as far as the destination has told).
	Save, Load time.Duration
}

// Kind says what an Event is about.
type Kind string

// The kinds of event.
const (
	Listening Kind = "listening"     // Text is the address, before anything else (destination only)
	Peer      Kind = "peer"          // the peer is authenticated and heard; Text is its software
	Phase     Kind = "phase"         // Phase is the new phase
	Progress  Kind = "progress"      // Devices is a snapshot
	Warning   Kind = "warning"       // Text
	Lost      Kind = "path-lost"     // the connection is lost, and the other side is waited for; Text is why
	Restored  Kind = "path-restored" // and it goes on
	Ready     Kind = "ready"         // all is at the destination, and the owner is asked whether to commit; Attempt, Downtime (source only)
	Accepted  Kind = "accept"        // the devices run, and the owner is to start the guest; Attempt (destination only)
	Held      Kind = "held"          // the user has cancelled, and a complete copy stays: its source is away; Peer, Attempt (destination only)
	Alarm     Kind = "alarm"         // both sides may run; Text, Attempt of this side
	Refused   Kind = "refused"       // a source was refused, or let go of before it sent anything, and the next is waited for; Peer, Attempt, Err, More (destination only)
	Asked     Kind = "preflight"     // a source asked what a migration would come to; Text is its software (destination only)
)

// Phases of a migration, in order.
const (
	Connect  = "connect"
	PreCopy  = "pre-copy"
	WarmUp   = "warm-up" // the lanes are padded, before a stop over a path that is not known (source only)
	Stop     = "stop"
	StopCopy = "stop-copy"
	Commit   = "commit"
	Running  = "running"
	Rollback = "rollback"
)

// Moves reports whether state of devices moves in a phase: in the others no rate is current.
func Moves(phase string) bool {
	return phase == PreCopy || phase == WarmUp || phase == Stop || phase == StopCopy
}

// Event is something worth telling while a migration runs.
type Event struct {
	Kind      Kind
	Phase     string
	Text      string
	Peer      transport.PeerID // of Kind Peer, Asked, Held and Refused; zero where the carrier does not know it
	Err       error            // of Kind Asked: why a migration would be refused, nil if it would not; of Kind Refused: why it was
	More      int              // of Kind Refused: how many refusals since the last were not told
	Devices   []Snapshot       // in HELLO's order
	Way       Way              // of Kind Progress
	Occupancy Occupancy        // of Kind Progress: in the last second or two
	Waiting   *Waiting         // of Kind Progress: nothing but the limit is waited for, nil if it is not so (source only)
	Attempt   Attempt          // that the event is about, zero before one is known; of Kind Alarm it is the recorded one, of Kind Refused the refused one
	Downtime  time.Duration    // of Kind Ready: so far
	// Predicted is the downtime expected, of Kind Phase when the stop begins.
	Predicted *Forecast
}

// Waiting says that PRE_COPY has sent everything once, and goes on only because a stop
// now would take longer than the limit. How much is left then says nothing of how long
// that lasts: it ends when the guest is quieter, or a cap is reached.
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
	Window    uint64 // the most that may be read and not applied, 0 is no limit but memory (source only)
	Rates
}

// Rates are how fast one device's bytes move, in bytes per second, each measured
// by itself; 0 is not known, or not current (source only).
type Rates struct {
	Save float64 // while the device is read
	Wire float64 // that are given to the lanes, encoded, lately
	Load float64 // while the destination's device is written
}

// Way is how the path to the destination was measured so far (source only).
type Way struct {
	Goodput float64       // bytes per second of all devices that get applied when the path is full, 0 is not known
	RTT     time.Duration // of a control message and its answer, 0 is not known
}

// Observer is called with each event, from one goroutine at a time. It must
// not block.
type Observer func(Event)

// Over notes what carries the migration, and warns where its kernel gives that less than
// it needs.
func (r *Report) Over(lane transport.Lane) {
	was := r.Carrier
	r.Carrier = transport.CarrierOf(lane)
	if hint := r.Carrier.Hint(); hint != "" && was.Hint() == "" {
		r.Warnings = append(r.Warnings, hint)
	}
}
