package reader

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	mib = 1 << 20
	ms  = time.Millisecond
)

// traffic is the frames that some lanes have sent, and when.
type traffic struct {
	mu    sync.Mutex
	begun time.Time
	seen  []arrival // bytes of one frame each
}

// lanesUntil makes lanes send frames until the time is over, and returns them.
func lanesUntil(t *testing.T, over time.Duration, tuning *Tuning, lanes, frame int) *traffic {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), over)
	defer cancel()
	s, p := &traffic{begun: time.Now()}, newPacer(tuning)
	var wg sync.WaitGroup
	for range lanes {
		wg.Go(func() { // ctx ends it
			for p.wait(ctx, frame) == nil && ctx.Err() == nil {
				s.mu.Lock()
				s.seen = append(s.seen, arrival{time.Since(s.begun), uint64(frame)})
				s.mu.Unlock()
			}
		})
	}
	wg.Wait()
	return s
}

// between is the number of bytes that were sent in [from, to).
func (s *traffic) between(from, to time.Duration) (n uint64) {
	for _, a := range s.seen {
		if a.at >= from && a.at < to {
			n += a.bytes
		}
	}
	return n
}

// TestMaxBandwidth checks that in any tenth of a second the lanes send no more than the limit, one
// burst and one frame. In a second they use the whole limit.
func TestMaxBandwidth(t *testing.T) {
	for _, c := range []struct {
		name         string
		limit        uint64
		lanes, frame int
	}{
		{"one lane", 10 * mib, 1, mib},
		{"lanes share it", 100 * mib, 16, mib},
		{"small frames", mib, 4, 4096},
		{"a frame that takes seconds", 10 << 10, 2, mib},
		{"fast", 10 << 30, 4, 4 * mib},
	} {
		synctest.Test(t, func(t *testing.T) {
			tuning := new(Tuning)
			tuning.SetMaxBandwidth(c.limit)
			const over = 5 * time.Second
			s := lanesUntil(t, over, tuning, c.lanes, c.frame)
			slack := float64(burstSize(c.limit) + c.frame)
			for from := time.Duration(0); from < over; from += 25 * ms {
				if n := float64(s.between(from, from+100*ms)); n > float64(c.limit)/10+slack {
					t.Errorf("%s: %.0f bytes within 100 ms of %v, the limit is %d per second", c.name, n, from, c.limit)
					break
				}
			}
			if n, want := float64(s.between(0, over)), float64(c.limit)*over.Seconds(); n > want+slack || n < want*0.98-slack {
				t.Errorf("%s: %.0f bytes in %v, want %.0f", c.name, n, over, want)
			}
		})
	}
}

// TestMaxBandwidthLive checks that a change takes effect at once, also for a lane that waits.
func TestMaxBandwidthLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tuning := new(Tuning)
		tuning.SetMaxBandwidth(1000) // a frame would take a quarter of an hour
		time.AfterFunc(time.Second, func() { tuning.SetMaxBandwidth(10 * mib) })
		time.AfterFunc(2*time.Second, func() { tuning.SetMaxBandwidth(mib) })
		s := lanesUntil(t, 5*time.Second, tuning, 2, mib/8)
		for _, c := range []struct {
			from, to time.Duration
			want     float64
		}{{0, time.Second, 0}, {time.Second, 2 * time.Second, 10 * mib}, {2100 * ms, 5 * time.Second, 2.9 * mib}} {
			if n := float64(s.between(c.from, c.to)); n < c.want*0.95-mib/4 || n > c.want*1.05+mib/4 {
				t.Errorf("from %v to %v: %.0f bytes, want %.0f", c.from, c.to, n, c.want)
			}
		}
		if got := tuning.MaxBandwidth(); got != mib {
			t.Errorf("MaxBandwidth is %d", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tuning, begun := new(Tuning), time.Now()
		tuning.SetMaxBandwidth(1000)
		time.AfterFunc(time.Second, func() { tuning.SetMaxBandwidth(0) })
		if err := newPacer(tuning).wait(t.Context(), mib); err != nil || time.Since(begun) > time.Second+burstTime {
			t.Errorf("the limit is gone, and the lane has waited for %v: %v", time.Since(begun), err)
		}
	})
}

// TestMaxBandwidthCancelled checks that a cancel ends the wait of the lane whose turn it is and of
// those behind it.
func TestMaxBandwidthCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tuning := new(Tuning)
		tuning.SetMaxBandwidth(1)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		p, begun := newPacer(tuning), time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { // ctx ends it
				if err := p.wait(ctx, mib); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if time.Since(begun) != time.Second {
			t.Errorf("it took %v", time.Since(begun))
		}
	})
}

// TestNoBandwidthLimitCostsNothing checks that a frame costs no allocation without a limit.
func TestNoBandwidthLimitCostsNothing(t *testing.T) {
	p, ctx := newPacer(new(Tuning)), context.Background()
	if n := testing.AllocsPerRun(100, func() { p.wait(ctx, mib) }); n != 0 {
		t.Errorf("%v allocations for each frame", n)
	}
}
