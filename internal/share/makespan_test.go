package share

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// fast is faster than any link of the tests.
const fast = 20e9

// set is a set of devices that migrate together.
type set struct {
	name string
	setting
	devices []device
}

func of(size int, save, load float64) device {
	return device{size: size, save: save, load: load, lie: truth}
}

func times(n int, d device) (all []device) {
	for range n {
		all = append(all, d)
	}
	return all
}

// sets returns sets whose devices differ in size, rates or estimates.
func sets() []set {
	long := usual
	long.rtt, long.into, long.from = 20e-3, 48, 48
	fine := usual
	fine.chunk, fine.from, fine.into = 64*kib, 470, 470
	tight := usual
	tight.from, tight.into = 18, 18
	return []set{
		{"1 to 1000", usual, []device{of(gib, fast, fast), of(mib, fast, fast)}},
		{"1 to 10 to 100 to 1000", usual, []device{of(mib, fast, fast), of(10*mib, fast, fast), of(100*mib, fast, fast), of(1000*mib, fast, fast)}},
		{"a slow loader as long as the link", usual, append(times(7, of(100*mib, fast, fast)), of(700*mib, fast, 0.62e9))},
		{"a slow saver as long as the link", usual, append(times(7, of(100*mib, fast, fast)), of(700*mib, 0.62e9, fast))},
		{"load rates 1 to 100", usual, []device{of(20*mib, fast, 50e6), of(200*mib, fast, 5e9), of(100*mib, fast, 500e6)}},
		{"one device is slower than the others", usual, append(times(3, of(200*mib, fast, fast)), of(100*mib, fast, 100e6))},
		{"8 VFs of 100 MiB, loaded in 0.2 s each", usual, times(8, of(100*mib, 1e9, 490e6))},
		{"many small and one big", usual, append(times(12, of(8*mib, fast, 400e6)), of(gib, fast, 1.3e9))},
		{"60 tiny, one big, one slow", fine, append(times(60, of(40, fast, fast)), of(400*mib, fast, fast), of(50*mib, 2e9, 150e6))},
		{"long link", long, []device{of(gib, fast, fast), of(300*mib, fast, 400e6), of(30*mib, fast, fast)}},
		{"memory for the floors and two more", tight, append(times(7, of(60*mib, fast, fast)), of(500*mib, fast, 0.75e9))},
		{"small chunks", fine, []device{of(500*mib, 1e9, 0.7e9), of(50*mib, 300e6, 100e6), of(300*mib, fast, 5e9), of(mib, 10e6, 10e6)}},
	}
}

// TestMakespan checks that unequal devices together take only the time of the link, or of
// the slowest device.
func TestMakespan(t *testing.T) {
	for _, s := range sets() {
		t.Run(s.name, func(t *testing.T) {
			took, err := newModel(s.setting, byEstimate, s.devices).run()
			if err != nil {
				t.Fatal(err)
			}
			least := s.bound(s.devices)
			t.Logf("%.4f s, %.4f s at least: %+.2f %%", took, least, 100*(took/least-1))
			if took > 1.05*least || took < least*(1-1e-9) {
				t.Errorf("the makespan is %.4f s, %.2f times the lower bound of %.4f s", took, took/least, least)
			}
			for _, p := range []policy{equal, firstCome} {
				if other, err := newModel(s.setting, p, s.devices).run(); err != nil || took > 1.01*other {
					t.Errorf("the makespan is %.4f s, and %.4f s with the policy %v (%v)", took, other, p, err)
				}
			}
		})
	}
}

// lies are kinds of wrong estimates.
var lies = map[string]lie{
	"truth":    truth,
	"x0":       func(int, uint64) (uint64, bool) { return 0, true },
	"x0.1":     func(_ int, b uint64) (uint64, bool) { return b / 10, true },
	"x10":      func(_ int, b uint64) (uint64, bool) { return b * 10, true },
	"x1000":    func(_ int, b uint64) (uint64, bool) { return b * 1000, true },
	"negative": func(int, uint64) (uint64, bool) { return math.MaxUint64 - 21, true },
	"none":     func(int, uint64) (uint64, bool) { return 0, false },
	"flapping": func(n int, b uint64) (uint64, bool) { return b * uint64(n%2) * 1000, n%3 > 0 },
}

// TestLies checks migrations with wrong estimates. Every stream arrives, and no more is
// promised than there is; the model checks both at every event. The cost is bounded: until
// a device is done, the link is busy or the device is as fast as with its floor alone.
func TestLies(t *testing.T) {
	names := []string{"truth", "x0", "x0.1", "x10", "x1000", "negative", "none", "flapping"}
	rapid.Check(t, func(t *rapid.T) {
		s := usual
		s.rtt = rapid.SampledFrom([]float64{100e-6, 2e-3, 20e-3}).Draw(t, "rtt")
		s.chunk = rapid.SampledFrom([]int{256 * kib, mib}).Draw(t, "chunk")
		n := rapid.IntRange(1, 8).Draw(t, "devices")
		s.from, s.into = n+1+rapid.IntRange(0, 60).Draw(t, "source"), Floor*n+rapid.IntRange(0, 60).Draw(t, "destination")
		rate := rapid.SampledFrom([]float64{50e6, 400e6, 2e9, fast})
		var devices []device
		for i := range n {
			d := of(rapid.IntRange(1, 100*mib).Draw(t, "size"), rate.Draw(t, "save"), rate.Draw(t, "load"))
			d.lie = lies[rapid.SampledFrom(names).Draw(t, fmt.Sprint("lie", i))]
			d.priority = rapid.Uint8Max(20).Draw(t, "priority")
			devices = append(devices, d)
		}
		took, err := newModel(s, byEstimate, devices).run()
		if err != nil {
			t.Fatal(err)
		}
		if most := s.atFloor(devices); took > 1.05*most || took < s.bound(devices)*(1-1e-9) {
			t.Fatalf("the makespan is %.4f s, want at most %.4f s", took, most)
		}
	})
}

// atFloor returns the link's time for all bytes plus the time of the slowest device with one
// chunk of memory on each side, which reads, sends, writes and acknowledges chunk by chunk.
func (s setting) atFloor(devices []device) float64 {
	slowest, total := 0.0, 0.0
	for _, d := range devices {
		size := float64(d.size)
		own := size/d.save + size/s.link + size/d.load + float64(chunks(d.size, s.chunk))*(s.rtt+s.ackDelay)
		slowest, total = max(slowest, own), total+size
	}
	return slowest + total/s.link
}

// TestPriority checks that a device with priority is done before equal ones.
func TestPriority(t *testing.T) {
	done := func(priority uint8) (all []float64) {
		devices := times(4, of(100*mib, fast, fast))
		devices[0].priority = priority
		m := newModel(usual, byEstimate, devices)
		all = make([]float64, len(devices))
		m.done = func(i int) { all[i] = m.now }
		if _, err := m.run(); err != nil {
			t.Fatal(err)
		}
		return all
	}
	plain, urgent := done(1), done(4)
	if plain[0] < 0.9*plain[3] {
		t.Errorf("equal devices are done at %.3f s", plain)
	}
	// The device begins with 4 of 7 parts of the link, and would be done after 7/16 of the
	// total time. As it has less to send than the others, its part decreases.
	if r := urgent[0] / urgent[3]; r < 0.4 || r > 0.6 {
		t.Errorf("with priority 4 the first is done at %.3f s of %.3f", urgent[0], urgent[3])
	}
}

// BenchmarkMakespan compares the policies: the makespan, and its ratio to the lower bound.
func BenchmarkMakespan(b *testing.B) {
	for _, s := range sets() {
		for _, p := range []policy{byEstimate, equal, firstCome} {
			b.Run(fmt.Sprintf("%s/%v", s.name, p), func(b *testing.B) {
				var took float64
				for b.Loop() {
					var err error
					if took, err = newModel(s.setting, p, s.devices).run(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(took*1000, "ms/makespan")
				b.ReportMetric(100*(took/s.bound(s.devices)-1), "%over")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
