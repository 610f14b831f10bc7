package migration

import (
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
)

// Preflight is what a migration would come to: the answer of a destination that
// would accept it, what was measured on the way there, and what follows from
// both.
type Preflight struct {
	Peer      transport.PeerID // zero where the carrier does not know it
	Carrier   transport.Carrier
	Software  string // of the destination
	Version   uint16 // of the protocol
	ChunkSize int
	Lanes     int
	Codecs    []codec.ID
	RTT       time.Duration // of a control message and its answer
	Rate      float64       // bytes per second that arrived over all lanes; 0 could not be measured
	Probed    uint64        // bytes that arrived to measure it
	Devices   []PreflightDevice
	Warning   string // why it may fail if the estimates are right, "" for no such reason
	Prediction
}

// PreflightDevice is one device's part of a Preflight.
type PreflightDevice struct {
	Name    string
	Driver  string // "" if not known
	PreCopy bool   // part of the state can go while the guest runs
	Size    uint64 // of the state, by the driver's estimate
	Sized   bool   // there was one
	Prediction
}

// Prediction is how long a migration is going to take. Its stages are those that
// a Report measures: one after the other, each as long as nothing but it is waited
// for. Devices are read, sent and written at the same time, so Wire is what
// sending takes longer than reading, and Load what writing takes longer than both.
type Prediction struct {
	Precopy Span // what goes while the guest runs

	Stop   Span // until the devices are in STOP_COPY
	Fill   Span // until the first chunk is at the destination
	Save   Span // until the devices are read
	Wire   Span // until that is sent
	Load   Span // until it is written
	Decide Step // the owner's word, by the last run
	Commit Span // READY, COMMIT and its answer: a round trip and a half, and three records

	Witness Step // the witness's answer, by a probe
	Accept  Step // the hook on ACCEPT, by the last run

	Start Span // until the devices, and the guest where it is asked for, run

	Downtime Span // from Stop to Start
	Total    Span // Precopy + Downtime
}

// PredictedStage is one part of a predicted downtime.
type PredictedStage struct {
	Name string
	Span
}

// Stages are the parts of the downtime, in order and named as those of a Report. Those
// that not every migration has are left out of one that has not.
func (p Prediction) Stages() []PredictedStage {
	stages := []PredictedStage{{StageStop, p.Stop}, {StageFill, p.Fill}, {StageSave, p.Save}, {StageWire, p.Wire}, {StageLoad, p.Load}}
	optional := func(name string, s Step) {
		if s != (Step{}) {
			stages = append(stages, PredictedStage{name, s.Span()})
		}
	}
	optional(StageDecide, p.Decide)
	stages = append(stages, PredictedStage{StageCommit, p.Commit})
	optional(StageWitness, p.Witness)
	optional(StageAccept, p.Accept)
	return append(stages, PredictedStage{StageStart, p.Start})
}

// Step is the predicted length of something that not every migration does. The zero
// value is one that this migration does not do.
type Step struct {
	Took    time.Duration
	Unknown bool // it is done, and how long it takes is not known
}

// Span is the time of a step. A step that is not done takes none.
func (s Step) Span() Span { return Span{Took: s.Took, Known: !s.Unknown} }

// Forecast is what a stop was expected to come to when it was decided.
type Forecast struct {
	Prediction
	Devices []DeviceForecast
}

// DeviceForecast is one device's part of a Forecast, as if it were alone.
type DeviceForecast struct {
	Bytes uint64 // still to be moved, read or not
	Prediction
}

// Span is a predicted length of time. Where a part of it is not known, Known is
// false and Took is the rest: the least that it is going to be.
type Span struct {
	Took  time.Duration
	Known bool
}

// AddSpans is the time of spans one after the other.
func AddSpans(spans ...Span) Span {
	total := Span{Known: true}
	for _, s := range spans {
		total.Took += s.Took
		total.Known = total.Known && s.Known
	}
	return total
}

// RoundTime leaves of a time what people read.
func RoundTime(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
