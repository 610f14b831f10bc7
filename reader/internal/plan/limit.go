package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// OnLimit says what to do with devices whose predicted downtime is above Options.DowntimeTarget
// when PRE_COPY reaches a cap.
type OnLimit uint8

// The reactions to a limit.
const (
	Refuse   OnLimit = iota // end the attempt: the guest runs on at the source
	Continue                // continue PRE_COPY until the downtime fits, or Options.AbortAfter ends the attempt; refuse a downtime that no PRE_COPY shortens
	Force                   // pause the guest nevertheless
)

// Limit is a bound that applies before the switchover.
type Limit uint8

// The limits.
const (
	LimitDowntime Limit = iota // no device has PRE_COPY to shorten the downtime
	LimitPrecopy               // Options.MaxPrecopy
	LimitRounds                // Options.MaxRounds
	LimitTimeout               // Options.AbortAfter
	LimitReinit                // a device was initialised again in every switchover
	LimitPath                  // the speed of the path is unknown
	LimitFixed                 // the steps of a switchover that no PRE_COPY shortens take longer than Options.DowntimeTarget
)

// Unlimited is the value from which Options.DowntimeTarget limits nothing.
const Unlimited time.Duration = 1 << 61

// LimitError ends an attempt that could not keep within a limit. The guest was not paused, or runs
// again.
type LimitError struct {
	Limit     Limit
	Allowed   time.Duration              // the limit, if it is a time
	Count     int                        // the limit, if it is a number
	Ready     bool                       // the destination has applied the initial bytes
	Predicted time.Duration              // the downtime of a switchover
	Stages    []migration.PredictedStage // of that downtime
}

// nameLimit names the limit and its value.
func (e *LimitError) nameLimit() string {
	switch e.Limit {
	case LimitDowntime:
		return fmt.Sprintf("the predicted downtime is over the limit of %v, and no device has PRE_COPY to shorten it", e.Allowed)
	case LimitPrecopy:
		return fmt.Sprintf("PRE_COPY has reached its time limit of %v", e.Allowed)
	case LimitRounds:
		return fmt.Sprintf("PRE_COPY has reached its limit of %d round%s", e.Count, plural(e.Count))
	case LimitTimeout:
		return fmt.Sprintf("the guest was not paused within %v", e.Allowed)
	case LimitPath:
		return "the speed of the path is unknown: the destination reported no padding"
	case LimitFixed:
		return fmt.Sprintf("the downtime is over the limit of %v even with PRE_COPY", e.Allowed)
	}
	return fmt.Sprintf("a device was initialised again in each of %d switchovers", e.Count)
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// Error names the limit, its value, and what prevented the switchover.
func (e *LimitError) Error() string {
	switch {
	case e.Limit == LimitReinit, e.Limit == LimitPath:
		return e.nameLimit()
	case e.Limit == LimitFixed:
		return e.nameLimit() + fmt.Sprintf(": the steps that PRE_COPY does not shorten take %v%s", migration.RoundTime(e.Predicted), nameStages(e.Stages))
	case !e.Ready:
		return e.nameLimit() + ", and the destination has not applied the initial bytes"
	}
	return e.nameLimit() + fmt.Sprintf(": a switchover now would take %v%s", migration.RoundTime(e.Predicted), nameStages(e.Stages))
}

// nameStages names the stages that take a tenth of a downtime or more, the longest first.
func nameStages(stages []migration.PredictedStage) string {
	var all time.Duration
	for _, s := range stages {
		all += s.Took
	}
	var parts []string
	for _, s := range slices.SortedStableFunc(slices.Values(stages), func(a, b migration.PredictedStage) int { return cmp.Compare(b.Took, a.Took) }) {
		if s.Took > 0 && s.Took >= all/10 {
			parts = append(parts, fmt.Sprintf("%s %v", s.Name, migration.RoundTime(s.Took)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, " + ") + ")"
}
