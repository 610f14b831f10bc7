package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// OnLimit says what to do with devices whose predicted downtime does not come
// down to Options.DowntimeTarget before a cap of PRE_COPY is reached.
type OnLimit uint8

// What to do on a limit.
const (
	Refuse   OnLimit = iota // end the attempt: the guest runs on here
	Continue                // go on with PRE_COPY, until it fits or Options.AbortAfter ends it; refuse what no PRE_COPY makes fit
	Force                   // stop the guest all the same
)

// Limit is a bound of what comes before the stop.
type Limit uint8

// The limits.
const (
	LimitDowntime Limit = iota // no PRE_COPY could bring the downtime down
	LimitPrecopy               // Options.MaxPrecopy
	LimitRounds                // Options.MaxRounds
	LimitTimeout               // Options.AbortAfter
	LimitReinit                // a device was initialised anew at every stop
	LimitPath                  // nothing shows how fast the path is
	LimitFixed                 // the steps of a stop that no PRE_COPY shortens take longer than Options.DowntimeTarget
)

// Unlimited is from where on Options.DowntimeTarget limits nothing.
const Unlimited time.Duration = 1 << 61

// LimitError ends an attempt that would have to break a limit. The guest was
// not stopped for it, or runs again.
type LimitError struct {
	Limit     Limit
	Allowed   time.Duration              // the limit, where it is a time
	Count     int                        // or a number
	Ready     bool                       // the destination has applied the initial bytes
	Predicted time.Duration              // the downtime that a stop would have meant
	Stages    []migration.PredictedStage // of that downtime
}

// nameLimit names the limit and its value.
func (e *LimitError) nameLimit() string {
	switch e.Limit {
	case LimitDowntime:
		return fmt.Sprintf("the predicted downtime is over the limit of %v, and no device has PRE_COPY to bring it down", e.Allowed)
	case LimitPrecopy:
		return fmt.Sprintf("PRE_COPY has reached its time limit of %v", e.Allowed)
	case LimitRounds:
		return fmt.Sprintf("PRE_COPY has reached its limit of %d round%s", e.Count, plural(e.Count))
	case LimitTimeout:
		return fmt.Sprintf("the guest was not to be stopped later than after %v", e.Allowed)
	case LimitPath:
		return "nothing shows how fast the path is: the destination has told of no padding"
	case LimitFixed:
		return fmt.Sprintf("the downtime is over the limit of %v, whatever PRE_COPY does", e.Allowed)
	}
	return fmt.Sprintf("a device was initialised anew in each of %d stops", e.Count)
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// Error names the limit, its value, and what stood against a stop.
func (e *LimitError) Error() string {
	switch {
	case e.Limit == LimitReinit, e.Limit == LimitPath:
		return e.nameLimit()
	case e.Limit == LimitFixed:
		return e.nameLimit() + fmt.Sprintf(": the steps that it does not shorten take %v%s", migration.RoundTime(e.Predicted), nameStages(e.Stages))
	case !e.Ready:
		return e.nameLimit() + ", and the destination has not applied the initial bytes"
	}
	return e.nameLimit() + fmt.Sprintf(": a stop now would take %v%s", migration.RoundTime(e.Predicted), nameStages(e.Stages))
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
