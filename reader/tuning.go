package reader

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Tuning changes limits while Send runs, from any goroutine. The zero value limits nothing. Several
// Sends with the same Tuning share its limits.
type Tuning struct {
	bandwidth atomic.Pointer[rate.Limiter] // nil: no limit
	doubt     atomic.Int64                 // 0: as in Options
}

// SetDoubtFor replaces Options.DoubtFor from now on; 0 restores it. A limit that has already passed
// ends the wait of a Send in doubt, and has no effect on others.
func (t *Tuning) SetDoubtFor(limit time.Duration) { t.doubt.Store(int64(limit)) }

// SetMaxBandwidth limits the payload on all data lanes together, in bytes per second, from now on;
// 0 is no limit. It applies to the switchover as well: a low limit makes a long downtime.
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

// burstTime is the time whose bytes may go at once, and the time within which a change of the limit
// takes effect. It is long beside the precision of a timer, and short beside the tenth of a second
// over which links are policed.
const burstTime = 5 * time.Millisecond

// burstSize is the number of bytes that may go at once.
func burstSize(perSecond uint64) int {
	return int(min(max(float64(perSecond)*burstTime.Seconds(), 1), math.MaxInt32))
}

// blockSize is how many bytes to send at once: most, or so few that some hundred blocks a second
// keep within the limit of the bandwidth.
func (t *Tuning) blockSize(most int) int {
	if limit := t.MaxBandwidth(); limit > 0 {
		return min(most, max(burstSize(limit), 512))
	}
	return most
}

// pacer limits the bandwidth of all lanes of one engine.
type pacer struct {
	tuning *Tuning
	turn   chan struct{} // holds a token while a lane waits: frames pass one by one
}

func newPacer(t *Tuning) *pacer { return &pacer{t, make(chan struct{}, 1)} }

// wait returns when n bytes may be sent. Without a limit it costs one atomic load.
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
