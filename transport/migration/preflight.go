package migration

import (
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
)

// Preflight is the result of a dry run: the answer of a destination that would accept the
// migration, the measurements of the path, and the prediction that follows.
type Preflight struct {
	Peer      transport.PeerID // zero where the carrier has no identities
	Carrier   transport.Carrier
	Software  string // of the destination
	Version   uint16 // of the protocol
	ChunkSize int
	Lanes     int
	Codecs    []codec.ID
	RTT       time.Duration // of a control message and its answer
	Rate      float64       // bytes per second that arrived over all lanes; 0 if it could not be measured
	Probed    uint64        // bytes that arrived during the measurement
	Devices   []PreflightDevice
	Warning   string // why the migration may fail if the estimates are right, "" for no such reason
	Prediction
}

// PreflightDevice is one device's part of a Preflight.
type PreflightDevice struct {
	Name    string
	Driver  string // "" if not known
	PreCopy bool   // part of the state can move while the guest runs
	Size    uint64 // of the state, by the driver's estimate
	Sized   bool   // whether there was an estimate
	Prediction
}

// Prediction is the predicted time of a migration, by stage. Its stages are those that a Report
// measures. They follow each other: a stage lasts while it alone is waited for. Devices are
// read, sent and written at the same time, so Wire is the time that sending takes longer than
// reading, and Load the time that writing takes longer than both.
type Prediction struct {
	Precopy Span // while the guest runs

	Stop   Span // until the devices are in STOP_COPY
	Fill   Span // until the first chunk is at the destination
	Save   Span // until the devices are read
	Wire   Span // until all is sent
	Load   Span // until all is written
	Decide Step // the answer of the VMM, by the last run
	Commit Span // READY, COMMIT and its answer: a round trip and a half, and three records

	Witness Step // the witness's answer, by a probe
	Accept  Step // the hook on ACCEPT, by the last run

	Start Span // until the devices run, and the guest, if there is one

	Downtime Span // from Stop to Start
	Total    Span // Precopy + Downtime
}

// PredictedStage is one part of a predicted downtime.
type PredictedStage struct {
	Name string
	Span
}

// Stages are the parts of the downtime, in order, with the names of a Report. A Step that the
// migration does not take is missing.
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

// Step is the predicted length of a step that not every migration takes. The zero value is a
// step that this migration does not take.
type Step struct {
	Took    time.Duration
	Unknown bool // the step is taken, and its length is not known
}

// Span is the length of the step, 0 if it is not taken.
func (s Step) Span() Span { return Span{Took: s.Took, Known: !s.Unknown} }

// Forecast is the prediction for a switchover at the moment when it was decided.
type Forecast struct {
	Prediction
	Devices []DeviceForecast
}

// DeviceForecast is one device's part of a Forecast, as if it were alone.
type DeviceForecast struct {
	Bytes uint64 // still to be moved, read or not
	Prediction
}

// Span is a predicted length of time. If a part of it is not known, Known is false, and Took is
// the sum of the other parts: a lower bound.
type Span struct {
	Took  time.Duration
	Known bool
}

// AddSpans is the length of spans that follow each other.
func AddSpans(spans ...Span) Span {
	total := Span{Known: true}
	for _, s := range spans {
		total.Took += s.Took
		total.Known = total.Known && s.Known
	}
	return total
}

// RoundTime rounds a time to the digits that people read.
func RoundTime(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
