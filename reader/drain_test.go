package reader

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/vfio"
)

// script is a device and its stream with scripted answers.
type script struct {
	vfio.Device
	reads    []answer
	pendings []estimated
	asked    []time.Time // times of the polls
	sized    int
}

type answer struct {
	n   int
	err error
}

type estimated struct {
	vfio.Pending
	err error
}

func (s *script) Features() vfio.Features       { return vfio.Features{PreCopy: true, DataSize: true} }
func (s *script) StopCopySize() (uint64, error) { s.sized++; return 77, nil }
func (s *script) Write([]byte) (int, error)     { panic("write to a source") }
func (s *script) Close() error                  { return nil }

func (s *script) Read(p []byte) (int, error) {
	a := s.reads[0]
	if len(s.reads) > 1 {
		s.reads = s.reads[1:]
	}
	return min(a.n, len(p)), a.err
}

func (s *script) Pending() (vfio.Pending, error) {
	s.asked = append(s.asked, time.Now())
	if len(s.pendings) == 0 {
		return vfio.Pending{}, nil
	}
	e := s.pendings[0]
	s.pendings = s.pendings[1:]
	return e.Pending, e.err
}

// drainBench is a drain of a script, with everything that it needs.
type drainBench struct {
	*drain
	script *script
	events []event
}

func newDrainBench(t *testing.T, s *script) *drainBench {
	arena, err := wire.NewArena(0, 4096, 8)
	if err != nil {
		t.Fatal(err)
	}
	b := &drainBench{script: s}
	b.drain = &drain{
		device: 3, dev: s, stream: s, reader: newStreamReader(s, false), queue: newQueue(arena, 8, alone(3)), limit: 4096,
		post: func(ev event) { b.events = append(b.events, ev) }, stopCopy: make(chan struct{}), polling: make(chan struct{}, 1),
		digest: wire.NewDigest(), start: time.Now(), firstReadAt: new(atomic.Int64),
	}
	t.Cleanup(func() {
		b.queue.discardAll()
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// alone are the needs when only one device has something to send.
func alone(device int) []share.Need {
	needs := make([]share.Need, device+1)
	for i := range device {
		needs[i].Done = true
	}
	return needs
}

// run drains until the stream ends.
func (b *drainBench) run(ctx context.Context) {
	done := make(chan struct{})
	go func() { defer close(done); b.drain.run(ctx) }()
	<-done
}

func TestDrain(t *testing.T) {
	eio := errors.New("EIO")
	for _, c := range []struct {
		name   string
		reads  []answer
		bytes  uint64
		chunks uint64
		err    error // nil: the stream ended
	}{
		{"empty", []answer{{0, io.EOF}}, 0, 0, nil},
		{"one byte", []answer{{1, nil}, {0, io.EOF}}, 1, 1, nil},
		{"short reads", []answer{{60, nil}, {36, nil}, {5000, nil}, {0, io.EOF}}, 60 + 36 + 4096, 3, nil},
		{"end with bytes", []answer{{10, nil}, {20, io.EOF}}, 30, 2, nil},
		{"nothing now", []answer{{0, vfio.ErrDrained}, {10, nil}, {0, vfio.ErrDrained}, {10, nil}, {0, io.EOF}}, 20, 2, nil},
		{"nothing more with bytes", []answer{{10, vfio.ErrDrained}, {10, io.EOF}}, 20, 2, nil},
		{"error", []answer{{10, nil}, {0, eio}}, 10, 1, eio},
		{"error with bytes", []answer{{10, nil}, {7, eio}}, 17, 2, eio},
		{"error at once", []answer{{0, eio}}, 0, 0, eio},
		{"lost", []answer{{10, nil}, {0, vfio.ErrSessionLost}}, 10, 1, vfio.ErrSessionLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newDrainBench(t, &script{reads: c.reads})
				b.run(t.Context())
				if got := b.read.Load(); got != c.bytes || uint64(b.queue.retained) != c.chunks {
					t.Errorf("%d bytes in %d chunks, want %d in %d", got, b.queue.retained, c.bytes, c.chunks)
				}
				last := b.events[len(b.events)-1]
				if ev, ok := last.(drainEnded); ok && (c.err != nil || ev.device != 3 || ev.end.Bytes != c.bytes || ev.end.Chunks != c.chunks) {
					t.Errorf("ended with %+v, want %v", ev, c.err)
				}
				if ev, ok := last.(drainFailed); ok && (ev.device != 3 || ev.offset != c.bytes || !errors.Is(ev.err, c.err)) {
					t.Errorf("failed with %+v, want %v at %d", ev, c.err, c.bytes)
				}
			})
		})
	}
}

// TestDrainAsks checks the polls of a device that has nothing to read.
func TestDrainAsks(t *testing.T) {
	eio := errors.New("EIO")
	idle := vfio.Pending{Initial: 1, Dirty: 2, Reinit: true}
	for _, c := range []struct {
		name string
		estimated
		want []event
	}{
		{"estimate", estimated{idle, nil}, []event{polled{plan.PrecopyPolled{Device: 3, Offset: 5, Idle: true, Pending: idle}}}},
		{"none in this driver", estimated{idle, errors.ErrUnsupported}, []event{polled{plan.PrecopyPolled{Device: 3, Offset: 5, Idle: true}}}},
		{"PRE_COPY just ended", estimated{idle, vfio.ErrNotPreCopy}, nil},
		{"failed", estimated{idle, eio}, []event{drainFailed{3, 5, eio}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newDrainBench(t, &script{reads: []answer{{5, nil}, {0, vfio.ErrDrained}, {0, io.EOF}}, pendings: []estimated{c.estimated}})
				b.run(t.Context())
				if _, ok := b.events[len(b.events)-1].(drainEnded); ok {
					b.events = b.events[:len(b.events)-1]
				}
				if len(b.events) != len(c.want) || len(c.want) > 0 && b.events[0] != c.want[0] {
					t.Errorf("events %+v, want %+v", b.events, c.want)
				}
			})
		})
	}
}

// TestDrainBacksOff checks that an idle device is polled at growing intervals, until bytes come.
func TestDrainBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		for range 10 {
			s.reads = append(s.reads, answer{0, vfio.ErrDrained})
		}
		s.reads = append(s.reads, answer{1, nil}, answer{0, vfio.ErrDrained}, answer{0, vfio.ErrDrained}, answer{0, io.EOF})
		newDrainBench(t, s).run(t.Context())
		var gaps []time.Duration
		for i := range s.asked[1:] {
			gaps = append(gaps, s.asked[i+1].Sub(s.asked[i])/time.Millisecond)
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 100, 100, 100, 1}
		for i := range want {
			if gaps[i] != want[i] {
				t.Fatalf("polled at intervals of %d ms, want %d", gaps, want)
			}
		}
		if s.sized != 0 {
			t.Errorf("the drain asked for MIG_DATA_SIZE %d times between reads", s.sized)
		}
	})
}

// TestAsk checks the event of a poll beside the drain, and that it asks for the size of STOP_COPY
// if it should.
func TestAsk(t *testing.T) {
	b := newDrainBench(t, &script{pendings: []estimated{{vfio.Pending{Dirty: 9}, nil}, {vfio.Pending{}, vfio.ErrNotPreCopy}}})
	if err := errors.Join(b.pollEstimates(true), b.pollEstimates(false)); err != nil {
		t.Fatal(err)
	}
	want := []event{sized{plan.SizePolled{Device: 3, Bytes: 77}}, polled{plan.PrecopyPolled{Device: 3, Pending: vfio.Pending{Dirty: 9}}}}
	if len(b.events) != 2 || b.events[0] != want[0] || b.events[1] != want[1] {
		t.Errorf("events %+v, want %+v", b.events, want)
	}
}

// TestDrainQuiet checks that a device is not polled in the switchover, and that its end is noticed
// at once. A poll could start a save that STOP_COPY waits for.
func TestDrainQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reads: []answer{{0, vfio.ErrDrained}}}
		b := newDrainBench(t, s)
		b.noPolling.Store(true)
		go b.drain.run(t.Context())
		time.Sleep(time.Second)
		synctest.Wait()
		s.reads = []answer{{0, io.EOF}}
		began := time.Now()
		close(b.stopCopy)
		synctest.Wait()
		if len(s.asked) != 0 || len(b.events) != 1 || time.Since(began) != 0 {
			t.Errorf("polled %d times; %d events after %v", len(s.asked), len(b.events), time.Since(began))
		}
	})
}

// TestDrainNeverEnds checks that a device in STOP_COPY may have nothing to read for a bounded time
// only.
func TestDrainNeverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newDrainBench(t, &script{reads: []answer{{5, nil}, {0, vfio.ErrDrained}}})
		b.noPolling.Store(true)
		close(b.stopCopy)
		began := time.Now()
		b.run(t.Context())
		ev, ok := b.events[0].(drainFailed)
		if !ok || ev.offset != 5 || !errors.Is(ev.err, vfio.ErrDrained) || time.Since(began) > 2*emptyLimit {
			t.Errorf("%+v after %v", b.events[0], time.Since(began))
		}
	})
}

// TestDrainStops checks that the end of its context wakes a waiting drain.
func TestDrainStops(t *testing.T) {
	for _, c := range []struct {
		name  string
		reads []answer
	}{
		{"for memory", []answer{{1, nil}}}, // no lane takes the queued chunks
		{"for the device", []answer{{0, vfio.ErrDrained}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newDrainBench(t, &script{reads: c.reads})
				ctx, cancel := context.WithCancel(t.Context())
				go b.drain.run(ctx)
				time.Sleep(time.Minute)
				cancel()
				synctest.Wait()
				for _, ev := range b.events {
					if _, ok := ev.(polled); !ok {
						t.Errorf("event %+v of a drain that was stopped", ev)
					}
				}
			})
		})
	}
}
