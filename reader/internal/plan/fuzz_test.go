package plan

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// maxFuzz bounds a sequence of events.
const maxFuzz = 2048

// fuzzedPlan drives a plan as the engine does, with drivers and a path that answer anything. It
// answers the plan's actions, in time or late, and gives other events at any time. Bytes of the
// script choose each of them. After the end of the script every byte is 0.
type fuzzedPlan struct {
	t       *testing.T
	plan    *Plan
	script  []byte
	now     time.Duration
	asked   []Event // answers that the plan waits for
	state   []vfio.State
	ended   []bool
	endSent []bool // EndStream was returned
	guest   bool   // the guest runs
	ends    int    // number of ReportDrained and EndAttempt actions
}

func (f *fuzzedPlan) byte() byte {
	if len(f.script) == 0 {
		return 0
	}
	b := f.script[0]
	f.script = f.script[1:]
	return b
}

// number is a number of any size: four bits, shifted by four times the other four.
func (f *fuzzedPlan) number() uint64 {
	b := f.byte()
	return uint64(b&15) << (b >> 4 * 4)
}

// rate is a measured rate: 0 and infinity are possible.
func (f *fuzzedPlan) rate() float64 {
	if n := f.number(); n < 15<<60 {
		return float64(n)
	}
	return math.Inf(1)
}

// span is a time by this side's own clock: half an hour at most.
func (f *fuzzedPlan) span() migration.Span {
	n := f.number()
	return migration.Span{Took: time.Duration(n & (1<<41 - 1)), Known: n%2 == 0}
}

func (f *fuzzedPlan) device() int { return int(f.byte()) % len(f.state) }

func (f *fuzzedPlan) start() {
	l := Limits{Downtime: time.Duration(f.number()&math.MaxInt64) + 1, OnLimit: OnLimit(f.byte() % 3),
		MaxPrecopy: time.Duration(f.number()&math.MaxInt64) + 1, MaxRounds: int(f.byte()) + 1, Timeout: time.Duration(f.number() & math.MaxInt64)}
	features := make([]vfio.Features, 1+f.byte()%4)
	for i := range features {
		b := f.byte()
		features[i] = vfio.Features{PreCopy: b&1 != 0, P2P: b&2 != 0}
		f.state = append(f.state, vfio.Running)
	}
	f.plan, f.guest = New(l, features, nil), true
	f.ended, f.endSent = make([]bool, len(features)), make([]bool, len(features))
	f.step(LanesOpened{})
}

// play gives events to the plan until the script ends.
func (f *fuzzedPlan) play() {
	f.start()
	for range maxFuzz {
		if len(f.script) == 0 {
			return
		}
		f.now += time.Duration(f.byte()) * 10 * time.Millisecond
		if ev := f.next(f.byte() % 6); ev != nil {
			f.step(ev)
		}
	}
}

// next is an event of a kind, nil if none is possible now.
func (f *fuzzedPlan) next(kind byte) Event {
	switch d := 0; kind {
	case 0:
		return f.answer()
	case 1:
		if d = f.device(); f.state[d] != vfio.PreCopy {
			return nil
		}
		return PrecopyPolled{Device: d, Offset: f.plan.devices[d].drained + f.number()>>8, Idle: f.byte()%2 == 0,
			Pending: vfio.Pending{Initial: f.number(), Dirty: f.number(), Reinit: f.byte()%8 == 1}}
	case 2:
		return SizePolled{f.device(), f.number()}
	case 3:
		ev := f.measured()
		return &ev
	case 4:
		if d = f.device(); f.state[d] != vfio.StopCopy || f.ended[d] {
			return nil
		}
		f.ended[d] = true
		return StreamEnded{d}
	}
	return TimePassed{}
}

// answer is the answer that the plan has waited for longest.
func (f *fuzzedPlan) answer() Event {
	if len(f.asked) == 0 {
		return nil
	}
	ev := f.asked[0]
	f.asked = f.asked[1:]
	if ev == (GuestPaused{}) || ev == (GuestResumed{}) {
		f.guest = ev == (GuestResumed{})
	}
	return ev
}

// measured moves every stream on. No byte is applied before it is read.
func (f *fuzzedPlan) measured() (ev Measured) {
	for _, d := range f.plan.devices {
		drained := d.drained + f.number()>>8
		ev.Drained = append(ev.Drained, drained)
		ev.Applied = append(ev.Applied, max(d.applied, min(drained, d.applied+f.number())))
		ev.Save, ev.Load = append(ev.Save, f.rate()), append(ev.Load, f.rate())
	}
	ev.Path = Path{Chunk: 1 + f.number()&(1<<22-1), Rate: f.rate(), Full: f.byte()%2 == 0, RTT: f.span()}
	ev.Stop, ev.Start = f.span(), f.span()
	if n := f.number(); n > 0 {
		ev.Path.Steps = Steps{Pause: migration.Step{Took: time.Duration(n & (1<<30 - 1)), Unknown: n%2 == 0}, Witness: migration.Step{Took: time.Duration(n >> 40), Unknown: n%3 == 0}}
	}
	return ev
}

func (f *fuzzedPlan) step(ev Event) {
	for _, a := range f.plan.Step(f.now, ev) {
		if f.ends > 0 {
			f.t.Fatalf("%T after the end", a)
		}
		switch a := a.(type) {
		case EnterStates:
			f.checkMoves(a.Moves)
		case WarmLanes:
			f.asked = append(f.asked, LanesWarmed{})
		case PauseGuest:
			f.checkPause(a)
		case ConfirmEstimates:
			f.asked = append(f.asked, EstimatesConfirmed{})
		case ResumeGuest:
			f.asked = append(f.asked, GuestResumed{})
		case EndStream:
			if !f.ended[a.Device] || f.endSent[a.Device] || !f.allStopped() {
				f.t.Fatalf("the end of stream %d is reported: ended %v, reported before %v, all in STOP_COPY %v", a.Device, f.ended[a.Device], f.endSent[a.Device], f.allStopped())
			}
			f.endSent[a.Device] = true
		case ReportDrained:
			f.checkDrained()
		case WarnUser: // needs no answer
		case EndAttempt:
			// The engine returns the devices and resumes the guest. Only a switchover that
			// was called off too often ends with a paused guest.
			if !f.guest && a.Cause.Limit != LimitReinit {
				f.t.Fatalf("the plan ends with a paused guest: %v", a.Cause)
			}
			f.ends++
		}
	}
	if p := f.plan.forecast(f.now); p.Downtime.Took < 0 {
		f.t.Fatalf("a downtime of %v is predicted", p.Downtime.Took)
	}
}

// checkPause checks that the destination has every initial byte, and that the prediction is within
// the limit, unless the pause is forced.
func (f *fuzzedPlan) checkPause(a PauseGuest) {
	p := f.plan
	if !p.allReady() && p.limits.OnLimit != Force {
		f.t.Fatal("the guest is paused before the initial bytes are applied")
	}
	if down := a.Predicted.Downtime; p.limits.OnLimit != Force && down.Took > p.limits.Downtime {
		f.t.Fatalf("the guest is paused for %v, limit %v", down.Took, p.limits.Downtime)
	}
	f.asked = append(f.asked, GuestPaused{})
}

// order is how far a state is on the way to STOP_COPY.
var order = map[vfio.State]int{vfio.Running: 0, vfio.PreCopy: 1, vfio.RunningP2P: 2, vfio.PreCopyP2P: 2, vfio.StopCopy: 3}

// checkMoves checks that devices move forward only, as their drivers can. No device may be frozen
// while another that still runs could reach it by DMA.
func (f *fuzzedPlan) checkMoves(moves []Move) {
	if len(moves) == 0 {
		f.t.Fatal("the plan moves no device")
	}
	for _, m := range moves {
		has := f.plan.devices[m.Device].features
		switch {
		case order[m.To] <= order[f.state[m.Device]]:
			f.t.Fatalf("device %d goes from %v to %v", m.Device, f.state[m.Device], m.To)
		case m.To == vfio.PreCopy && !has.PreCopy, order[m.To] == 2 && !has.P2P, m.To == vfio.PreCopyP2P && !has.PreCopy:
			f.t.Fatalf("device %d of %+v goes to %v", m.Device, has, m.To)
		case m.To != vfio.PreCopy && f.guest:
			f.t.Fatalf("device %d goes to %v while the guest runs", m.Device, m.To)
		}
	}
	for _, m := range moves {
		for i, d := range f.plan.devices {
			if m.To == vfio.StopCopy && f.plan.devices[m.Device].features.P2P && (order[f.state[i]] < 2 || !d.features.P2P && f.state[i] != vfio.StopCopy) {
				f.t.Fatalf("device %d is frozen while device %d is in %v", m.Device, i, f.state[i])
			}
		}
	}
	for _, m := range moves {
		f.state[m.Device] = m.To
	}
	f.asked = append(f.asked, StatesReached{})
}

// allStopped reports whether the plan has heard that every device is in STOP_COPY.
func (f *fuzzedPlan) allStopped() bool {
	moving := slices.Contains(f.asked, Event(StatesReached{}))
	return !moving && !slices.ContainsFunc(f.state, func(s vfio.State) bool { return s != vfio.StopCopy })
}

func (f *fuzzedPlan) checkDrained() {
	for i := range f.endSent {
		if !f.endSent[i] {
			f.t.Fatalf("all streams are drained, and stream %d has not ended", i)
		}
	}
	f.ends++
}

// Parts of scripts that are written by hand. An event is the time since the last one, its kind and
// its arguments.
var (
	fuzzLimits   = []byte{0x7f, 0, 0x9f, 29, 0} // 4 s, refuse, 17 minutes, 30 rounds, no timeout
	fuzzAnswer   = []byte{0, 0}
	fuzzMeasured = []byte{0x72, 0x72}                         // save and load 512 MB/s
	fuzzPath     = []byte{0x41, 0x72, 0, 0x42, 0x42, 0x42, 0} // of 512 MB/s, full; transitions of 0.1 ms, no steps
	fuzzIdle     = []byte{255, 1, 0, 0, 0, 0, 0, 0}           // device 0 has nothing more, 2.55 s later
	fuzzAlone    = slices.Concat(fuzzLimits, []byte{0, 0}, sizeOf(0), []byte{0, 3, 0, 0}, fuzzMeasured, fuzzPath,
		fuzzAnswer, fuzzAnswer, fuzzAnswer, []byte{0, 4, 0})
	fuzzPair = slices.Concat(fuzzLimits, []byte{1, 3, 0}, fuzzAnswer, sizeOf(0), sizeOf(1),
		[]byte{0, 3, 0, 0}, fuzzMeasured, []byte{0, 0}, fuzzMeasured, fuzzPath, fuzzIdle, fuzzIdle, fuzzIdle,
		fuzzAnswer, fuzzAnswer, fuzzAnswer, fuzzAnswer, fuzzAnswer, []byte{0, 4, 1, 0, 4, 0})
)

// sizeOf says that a device's state has 64 KiB.
func sizeOf(device byte) []byte { return []byte{0, 2, device, 0x41} }

// TestFuzzedPlanEnds checks that the fuzzer begins with plans that reach their end, so that its
// changes matter.
func TestFuzzedPlanEnds(t *testing.T) {
	for _, script := range [][]byte{fuzzAlone, fuzzPair} {
		f := &fuzzedPlan{t: t, script: script}
		f.play()
		if f.plan.phase != Drained || f.ends != 1 {
			t.Errorf("%x ends in %v", script, f.plan.phase)
		}
	}
}

// FuzzPlan plays all answers of drivers and paths. The plan must pause no guest too early or for
// too long, move devices as their drivers allow, and end once.
func FuzzPlan(f *testing.F) {
	f.Add(fuzzAlone)
	f.Add(fuzzPair)
	f.Fuzz(func(t *testing.T, script []byte) {
		(&fuzzedPlan{t: t, script: script}).play()
	})
}
