package handoff

import (
	"slices"
	"strings"
	"time"
)

// The steps of a switchover whose times are known only from an earlier run.
const (
	StepPause  = "pause"     // the guest is paused (source)
	StepDecide = "decide"    // the VMM decides whether to commit (source)
	StepAccept = "on-accept" // the hook on ACCEPT (destination)
	StepGuest  = "guest"     // the guest is started (destination)
	StepStop   = "stop"      // the devices are stopped (source), see [StepOf]
	StepStart  = "start"     // the devices are started (destination), see [StepOf]
)

// KeepTimes stores the times of steps, as StepTimes.Keep does. For a step of devices the fastest
// run counts, so that one run on a busy host does not count for ever. KeepTimes writes the times
// that count into ran.
func KeepTimes(times StepTimes, ran map[string]time.Duration) error {
	for step, took := range ran {
		if !strings.HasPrefix(step, StepStop+" ") && !strings.HasPrefix(step, StepStart+" ") {
			continue
		}
		if before, ok := times.Last(step); ok {
			ran[step] = min(before, took)
		}
	}
	return times.Keep(ran)
}

// StepOf names a step of devices by their drivers, on which its time depends.
func StepOf(step string, drivers []string) string {
	names := slices.DeleteFunc(slices.Clone(drivers), func(name string) bool { return name == "" })
	slices.Sort(names)
	return step + " " + strings.Join(slices.Compact(names), "+")
}

// StepTimes stores how long steps took, from one run to the next.
type StepTimes interface {
	// Last is how long a step took when it last ran. ok is false if that is not known.
	Last(step string) (took time.Duration, ok bool)
	// Keep stores the times of the steps that have run. The engine calls it once the guest
	// runs.
	Keep(took map[string]time.Duration) error
}

// Timed is a Journal that measures its writes.
type Timed interface {
	Journal
	// WriteTook is how long the write of an entry takes.
	WriteTook() time.Duration
}

// WriteTook is how long the write of an entry takes, 0 for a journal in memory.
func WriteTook(j Journal) time.Duration {
	if timed, ok := j.(Timed); ok {
		return timed.WriteTook()
	}
	return 0
}
