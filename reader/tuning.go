package reader

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Tuning is what may be changed while Send runs, from any goroutine. The zero
// value limits nothing. Sends that are given the same one share its limits.
type Tuning struct {
	bandwidth atomic.Pointer[rate.Limiter] // nil: none
	doubt     atomic.Int64                 // 0: that of Options
}

// SetDoubtFor takes the place of Options.DoubtFor from now on; 0 gives that back.
// A limit that has passed already ends the wait of a Send that is in doubt, and does
// nothing to any other.
func (t *Tuning) SetDoubtFor(limit time.Duration) { t.doubt.Store(int64(limit)) }

// SetMaxBandwidth limits the payload on all data lanes together, in bytes per
// second, from now on; 0 is no limit. It binds the switchover too: a low limit
// makes a long downtime.
func (t *Tuning) SetMaxBandwidth(perSecond uint64) {
	if perSecond == 0 {
		t.bandwidth.Store(nil)
		return
	}
	t.bandwidth.Store(rate.NewLimiter(rate.Limit(perSecond), burstSize(perSecond)))
}

// MaxBandwidth is the limit in bytes per second, 0 if there is none.
func (t *Tuning) MaxBandwidth() uint64 {
	if l := t.bandwidth.Load(); l != nil {
		return uint64(l.Limit())
	}
	return 0
}

// portionTime is how long a limit may be saved up for, and how soon a change of
// it is felt: long beside a timer's precision, short beside the tenth of a second
// over which links are policed.
const burstTime = 5 * time.Millisecond

// portion is how many bytes that is.
func burstSize(perSecond uint64) int {
	return int(min(max(float64(perSecond)*burstTime.Seconds(), 1), math.MaxInt32))
}

// block is how much to send at once: most, or so little that a limit of the bandwidth lets some
// hundred of them pass a second.
func (t *Tuning) blockSize(most int) int {
	if limit := t.MaxBandwidth(); limit > 0 {
		return min(most, max(burstSize(limit), 512))
	}
	return most
}

// pacer keeps the lanes of one engine within the bandwidth.
type pacer struct {
	tuning *Tuning
	turn   chan struct{} // holds a token while a lane pays: frames go one by one, not all lanes' at once
}

func newPacer(t *Tuning) *pacer { return &pacer{t, make(chan struct{}, 1)} }

// wait returns when n bytes may be sent. Without a limit that costs one atomic
// load.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p.tuning.bandwidth.Load() == nil {
		return nil
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.turn }()
	for n > 0 {
		limit := p.tuning.bandwidth.Load() // it may have changed since the last portion
		if limit == nil {
			return nil
		}
		part := min(n, limit.Burst())
		if err := limit.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
