package reader

import (
	"errors"
	"fmt"
	"time"
)

// What ends an attempt by taking too long.
var (
	ErrNoWelcome   = errors.New("no WELCOME came")       // Options.ConnectLimit
	ErrMaxDowntime = errors.New("the guest stood still") // Options.MaxDowntime
	ErrStalled     = errors.New("nothing moved")         // Options.StallLimit
)

// OnLimit says what to do with devices whose predicted downtime does not come
// down to Options.DowntimeLimit before a cap of PRE_COPY is reached.
type OnLimit uint8

// What to do on a limit.
const (
	Refuse   OnLimit = iota // end the attempt: the guest runs on here
	Continue                // go on with PRE_COPY, until it fits or Options.Timeout ends it
	Force                   // stop the guest all the same
)

// Limit is a bound of what comes before the stop.
type Limit uint8

// The limits.
const (
	LimitDowntime Limit = iota // no PRE_COPY could bring the downtime down
	LimitPrecopy               // Options.MaxPrecopy
	LimitRounds                // Options.MaxRounds
	LimitTimeout               // Options.Timeout
	LimitReinit                // a device was initialised anew at every stop
	LimitPath                  // nothing shows how fast the path is
)

// unlimited is from where on Options.DowntimeLimit limits nothing.
const unlimited time.Duration = 1 << 61

// LimitError ends an attempt that would have to break a limit. The guest was
// not stopped for it, or runs again.
type LimitError struct {
	Limit     Limit
	Allowed   time.Duration // the limit, where it is a time
	Count     int           // or a number
	Ready     bool          // the destination has applied the initial bytes
	Predicted time.Duration // the downtime that a stop would have meant
}

// what names the limit and its value.
func (e *LimitError) what() string {
	switch e.Limit {
	case LimitDowntime:
		return fmt.Sprintf("the predicted downtime is over the limit of %v, and no device has PRE_COPY to bring it down", e.Allowed)
	case LimitPrecopy:
		return fmt.Sprintf("PRE_COPY has reached its time limit of %v", e.Allowed)
	case LimitRounds:
		return fmt.Sprintf("PRE_COPY has reached its limit of %d rounds", e.Count)
	case LimitTimeout:
		return fmt.Sprintf("the guest was not to be stopped later than after %v", e.Allowed)
	case LimitPath:
		return "nothing shows how fast the path is: the destination has told of no padding"
	}
	return fmt.Sprintf("a device was initialised anew in each of %d stops", e.Count)
}

// Error names the limit, its value, and what stood against a stop.
func (e *LimitError) Error() string {
	switch {
	case e.Limit == LimitReinit, e.Limit == LimitPath:
		return e.what()
	case !e.Ready:
		return e.what() + ", and the destination has not applied the initial bytes"
	}
	return e.what() + fmt.Sprintf(": a stop now would take %v", round(e.Predicted))
}

// round makes a time one to read.
func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
