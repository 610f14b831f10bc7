package reader

import (
	"errors"

	"github.com/migpipe/migpipe/reader/internal/plan"
)

// What ends an attempt by taking too long.
var (
	ErrNoWelcome   = errors.New("no WELCOME came")                          // Options.ConnectLimit
	ErrMaxDowntime = errors.New("the guest stood still")                    // Options.MaxDowntime
	ErrNotPaused   = errors.New("the pause of the guest was not confirmed") // Options.PauseGuest, MaxDowntime
	ErrStalled     = errors.New("nothing moved")                            // Options.StallLimit
)

// OnLimit says what to do with devices whose predicted downtime does not come
// down to Options.DowntimeLimit before a cap of PRE_COPY is reached.
type OnLimit = plan.OnLimit

// What to do on a limit.
const (
	Refuse   = plan.Refuse   // end the attempt: the guest runs on here
	Continue = plan.Continue // go on with PRE_COPY, until it fits or Options.Timeout ends it; refuse what no PRE_COPY makes fit
	Force    = plan.Force    // stop the guest all the same
)

// Limit is a bound of what comes before the switchover.
type Limit = plan.Limit

// The limits.
const (
	LimitDowntime = plan.LimitDowntime // no PRE_COPY could bring the downtime down
	LimitPrecopy  = plan.LimitPrecopy  // Options.MaxPrecopy
	LimitRounds   = plan.LimitRounds   // Options.MaxRounds
	LimitTimeout  = plan.LimitTimeout  // Options.Timeout
	LimitReinit   = plan.LimitReinit   // a device was initialised anew at every switchover
	LimitPath     = plan.LimitPath     // nothing shows how fast the path is
	LimitFixed    = plan.LimitFixed    // the steps of a switchover that no PRE_COPY shortens take longer than Options.DowntimeLimit
)

// LimitError ends an attempt that would have to break a limit. The guest was not paused for it,
// or runs again. Its fields are the Limit, the time Allowed or the Count that it is, whether
// the destination is Ready, which has then applied the initial bytes, and the downtime
// Predicted of a switchover, with its Stages.
type LimitError = plan.LimitError
