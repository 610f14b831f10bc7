package ui

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// HumanBytes is a size with four digits at most: "176 B", "300.0 MiB".
func HumanBytes(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		if v /= 1 << 10; v < 1000 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// humanRate is bytes per second.
func humanRate(perSecond float64) string { return HumanBytes(uint64(perSecond)) + "/s" }

// HumanTime is a duration with the digits that matter to people.
func HumanTime(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// bounds are the bottlenecks in words.
var bounds = map[string]string{
	migration.BoundSave:    "bound by the source's devices",
	migration.BoundCodec:   "bound by the codec",
	migration.BoundNetwork: "bound by the network",
	migration.BoundArrival: "bound by what arrives",
	migration.BoundLoad:    "bound by the destination's devices",
	migration.Balanced:     "balanced",
	// Of the downtime: stages in which no state moves.
	migration.StageStop:    "bound by the stop of the devices",
	migration.StageDecide:  "bound by the owner's word",
	migration.StageCommit:  "bound by the round trips and records of the hand-off",
	migration.StageWitness: "bound by the witness",
	migration.StageAccept:  "bound by on-accept",
	migration.StageStart:   "bound by the start at the destination",
}

// occupancyText is how full the stages are, and what they wait for; nothing where nothing
// has moved.
func occupancyText(f migration.Occupancy) string {
	if f.Bottleneck == "" {
		return ""
	}
	parts := []string{fmt.Sprintf("queue %.0f %%", 100*f.Queue)}
	for _, p := range []struct {
		name string
		part float64
	}{{"without credit", f.Credit}, {"in flight", f.Flight}, {"ahead", f.Ahead}} {
		if percent := math.Round(100 * p.part); percent > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f %%", p.name, percent))
		}
	}
	return strings.Join(parts, ", ") + ": " + bounds[f.Bottleneck]
}

// jsonOccupancy is how full the memory for chunks is, in per cent of it, and by which stages.
type jsonOccupancy struct {
	Queue      float64 `json:"queue_percent"`
	Credit     float64 `json:"without_credit_percent"`
	Flight     float64 `json:"in_flight_percent"`
	Ahead      float64 `json:"ahead_percent"`
	Bottleneck string  `json:"bottleneck"`
}

// newJSONOccupancy is nil where nothing has moved.
func newJSONOccupancy(f migration.Occupancy) *jsonOccupancy {
	if f.Bottleneck == "" {
		return nil
	}
	percent := func(part float64) float64 { return math.Round(1e3*part) / 10 }
	return &jsonOccupancy{percent(f.Queue), percent(f.Credit), percent(f.Flight), percent(f.Ahead), f.Bottleneck}
}

// fineTime is humanTime with microseconds, which a round trip may take.
func fineTime(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%d us", d.Microseconds())
	}
	return HumanTime(d)
}

// spanText marks a prediction that lacks a part as a bound.
func spanText(s migration.Span) string {
	switch {
	case s.Known:
		return fineTime(s.Took)
	case s.Took <= 0:
		return "unknown"
	}
	return "at least " + fineTime(s.Took)
}

// predictedParts is the downtime by stage. A stage that is not known completely is marked.
func predictedParts(p migration.Prediction) string {
	var parts []string
	for _, s := range p.Stages() {
		if s.Took >= time.Microsecond || !s.Known {
			parts = append(parts, s.Name+" "+spanText(s.Span))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " = " + strings.Join(parts, " + ")
}
