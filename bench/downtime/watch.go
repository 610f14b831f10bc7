package main

import (
	"sync"
	"time"

	"github.com/migpipe/migpipe/bench/downtime/model"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// watch records the times of the devices' steps in a migration. It uses the calls of the
// devices, the same way for all strategies.
type watch struct {
	start time.Time

	mu      sync.Mutex
	cuts    model.Cuts
	begun   bool
	paused  bool
	filled  bool
	agreed  bool
	read    []int64 // bytes, by device
	written []int64
	before  []int64 // read before the pause
}

func newWatch(devices int) *watch {
	return &watch{start: time.Now(), read: make([]int64, devices), written: make([]int64, devices), before: make([]int64, devices)}
}

// note records an event with its time.
func (w *watch) note(what func(now time.Duration)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what(time.Since(w.start))
}

// pause records the pause of the guest.
func (w *watch) pause() {
	w.note(func(now time.Duration) {
		w.cuts.Paused, w.paused = now, true
		copy(w.before, w.read)
	})
}

func (w *watch) result() model.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts.Result()
}

// sourceProbe is a watched source device.
type sourceProbe struct {
	*sim.Device
	w     *watch
	index int
}

func (p *sourceProbe) SetState(to vfio.State) (vfio.Stream, error) {
	p.w.note(func(now time.Duration) {
		if !p.w.begun {
			p.w.cuts.Began, p.w.begun = now, true
		}
	})
	s, err := p.Device.SetState(to)
	if to == vfio.StopCopy {
		p.w.note(func(now time.Duration) { p.w.cuts.Stopped = now })
	}
	if s != nil {
		s = &savingProbe{s, p}
	}
	return s, err
}

// savingProbe is its stream.
type savingProbe struct {
	vfio.Stream
	*sourceProbe
}

func (p *savingProbe) Close() error { return p.Stream.Close() }

func (p *savingProbe) Read(b []byte) (int, error) {
	n, err := p.Stream.Read(b)
	if n > 0 {
		p.w.note(func(now time.Duration) {
			p.w.cuts.Saved = now
			p.w.read[p.index] += int64(n)
		})
	}
	return n, err
}

// sinkProbe is a watched destination device.
type sinkProbe struct {
	*sim.Device
	w     *watch
	index int
}

func (p *sinkProbe) SetState(to vfio.State) (vfio.Stream, error) {
	starting := to == vfio.RunningP2P || to == vfio.Running
	p.w.note(func(now time.Duration) {
		if starting && !p.w.agreed {
			p.w.cuts.Agreed, p.w.agreed = now, true
		}
	})
	s, err := p.Device.SetState(to)
	if starting {
		p.w.note(func(now time.Duration) { p.w.cuts.Started = now })
	}
	if s != nil {
		s = &loadingProbe{s, p}
	}
	return s, err
}

// loadingProbe is its stream.
type loadingProbe struct {
	vfio.Stream
	*sinkProbe
}

func (p *loadingProbe) Close() error { return p.Stream.Close() }

func (p *loadingProbe) Write(b []byte) (int, error) {
	w := p.w
	w.note(func(now time.Duration) {
		w.cuts.Wired = now
		w.written[p.index] += int64(len(b))
		if w.paused && !w.filled && w.written[p.index] > w.before[p.index] {
			w.cuts.Filled, w.filled = now, true
		}
	})
	n, err := p.Stream.Write(b)
	w.note(func(now time.Duration) { w.cuts.Loaded = now })
	return n, err
}
