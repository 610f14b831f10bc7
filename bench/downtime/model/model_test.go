package model

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

func strategy(t *testing.T, devices, i int) Strategy {
	t.Helper()
	return Strategies(devices)[i]
}

func mustRun(t interface{ Fatal(...any) }, s Strategy, l Link, devices ...Device) Result {
	r, err := Run(s, l, devices)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func of(d Device, n int) (list []Device) {
	for range n {
		list = append(list, d)
	}
	return list
}

// near allows for the rounding of divisions.
func near(got, want time.Duration) bool { return (got - want).Abs() < time.Microsecond }

// Results that can be computed by hand.
func TestByHand(t *testing.T) {
	plain := Device{Dirty: 10 * mib, Save: 10 * mib, Load: 10 * mib, Stop: 20 * ms, Start: 30 * ms}
	buffered, records, warm := plain, plain, plain
	buffered.Buffer, buffered.Buffers = 5*mib, 1
	records.Record = 10 * mib
	warm.Initial, warm.Alloc, warm.Save = mib, 500*ms, 0
	link := Link{Rate: 10 * mib}
	free := Strategy{Window: true}
	for _, c := range []struct {
		name     string
		strategy Strategy
		link     Link
		devices  []Device
		want     []time.Duration // stop, fill, save, wire, load, commit, start
	}{
		{"saved whole, then 1 MiB on the wire and 1 MiB in the device overlap", free, link, of(plain, 1),
			[]time.Duration{20 * ms, 1100 * ms, 0, 900 * ms, 100 * ms, 0, 30 * ms}},
		{"a second buffer is saved while the first is sent", free, link, of(buffered, 1),
			[]time.Duration{20 * ms, 600 * ms, 400 * ms, 500 * ms, 100 * ms, 0, 30 * ms}},
		{"a record is loaded when it is whole", free, link, of(records, 1),
			[]time.Duration{20 * ms, 1100 * ms, 0, 900 * ms, 1000 * ms, 0, 30 * ms}},
		{"one thread stops, drains, loads and starts in turn", Strategy{}, link, of(plain, 2),
			[]time.Duration{40 * ms, 1080 * ms, 0, 1900 * ms, 100 * ms, 0, 60 * ms}},
		{"a thread for each: the wire is shared, the SETs overlap", Strategy{Window: true, Stop: true, Start: true}, link, of(plain, 2),
			[]time.Duration{20 * ms, 1100 * ms, 0, 1900 * ms, 100 * ms, 0, 30 * ms}},
		{"half a round trip to the destination, a whole one to commit", Strategy{Window: true, Commit: true}, Link{RTT: 10 * ms}, of(plain, 1),
			[]time.Duration{20 * ms, 1005 * ms, 0, 900 * ms, 100 * ms, 10 * ms, 30 * ms}},
		{"without ack, what the destination allocates falls into the window", Strategy{}, Link{}, of(warm, 1),
			[]time.Duration{20 * ms, 580 * ms, 0, 900 * ms, 100 * ms, 0, 30 * ms}},
		{"with ack it does not", Strategy{Ack: true}, Link{}, of(warm, 1),
			[]time.Duration{20 * ms, 0, 0, 900 * ms, 100 * ms, 0, 30 * ms}},
		{"one chunk may be on its way", Strategy{Flight: mib}, Link{RTT: 10 * ms}, of(plain, 1),
			[]time.Duration{20 * ms, 1005 * ms, 9*110*ms - 5*ms, 5 * ms, 100 * ms, 0, 30 * ms}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := mustRun(t, c.strategy, c.link, c.devices...)
			for i, s := range r.Stages {
				if !near(s.Took, c.want[i]) {
					t.Errorf("%s takes %v, want %v (all: %v)", s.Name, s.Took, c.want[i], r.Stages)
				}
			}
		})
	}
}

// The published figures, within 5 %.
func TestPublished(t *testing.T) {
	vf, link := Field()
	idle := vf
	idle.Initial, idle.Dirty, idle.Alloc = 300e6, 8*mib, 1480*ms
	for _, c := range []struct {
		devices  []Device
		strategy int
		want     time.Duration
	}{
		{of(vf, 4), 1, 2100 * ms},
		{of(vf, 4), 2, 1085 * ms}, // 1.1 s, and 1,068 ms in the series that added load threads
		{of(idle, 1), 0, 1900 * ms},
		{of(idle, 1), 1, 420 * ms},
	} {
		s := strategy(t, len(c.devices), c.strategy)
		got := mustRun(t, s, link, c.devices...).Downtime + Guest
		if off := (got - c.want).Abs(); off > c.want/20 {
			t.Errorf("%s, %d devices: %v, published %v", s.Name, len(c.devices), got, c.want)
		}
	}
}

func TestOursIsTheShortest(t *testing.T) {
	vf, link := Field()
	for _, n := range []int{1, 2, 4, 8} {
		ours := mustRun(t, strategy(t, n, 3), link, of(vf, n)...).Downtime
		for i := range 3 {
			s := strategy(t, n, i)
			theirs := mustRun(t, s, link, of(vf, n)...).Downtime
			// Of one device nothing can be done at once, and a commit takes its round trip.
			if ours > theirs+link.RTT || n > 1 && ours >= theirs {
				t.Errorf("%d devices: %v, %s %v", n, ours, s.Name, theirs)
			}
		}
	}
}

func drawDevice(t *rapid.T) Device {
	size := func(name string, most int) int64 { return int64(rapid.IntRange(0, most).Draw(t, name)) << 18 }
	took := func(name string) time.Duration { return time.Duration(rapid.IntRange(0, 500).Draw(t, name)) * ms }
	return Device{
		Initial: size("initial", 100), Dirty: size("dirty", 100), Save: size("save", 2000), Load: size("load", 2000),
		Buffer: size("buffer", 32), Buffers: 2, Record: size("record", 32),
		Alloc: took("alloc"), Stop: took("stop"), Start: took("start"),
	}
}

func drawDevices(t *rapid.T) []Device {
	return rapid.SliceOfN(rapid.Custom(drawDevice), 1, 4).Draw(t, "devices")
}

// Every saved byte is read, written and loaded, once. The stages add up to the downtime.
func TestConservation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		devices := drawDevices(t)
		s := rapid.SampledFrom(Strategies(len(devices))).Draw(t, "strategy")
		m := newMigration(s, Link{Rate: 1e9, RTT: ms}, devices)
		m.precopy()
		m.run()
		if !m.ended {
			t.Fatal("it does not end")
		}
		for i, d := range m.devices {
			want := devices[i].Initial + devices[i].Dirty
			if d.made != want || d.read != want || d.written != want || d.loaded != want {
				t.Errorf("device %d: %d made, %d read, %d written, %d loaded of %d", i, d.made, d.read, d.written, d.loaded, want)
			}
		}
		var sum time.Duration
		r := m.cuts.Result()
		for _, stage := range r.Stages {
			sum += stage.Took
		}
		if sum != r.Downtime || r.Total < r.Downtime {
			t.Errorf("stages of %v in a downtime of %v and %v in all", sum, r.Downtime, r.Total)
		}
	})
}

// together is the time of some devices plus one more, which has its own thread or follows.
func together(others time.Duration, thread bool, one time.Duration) time.Duration {
	if thread {
		return max(others, one)
	}
	return others + one
}

// starts is the time of the starts of all devices.
func starts(s Strategy, devices []Device) (took time.Duration) {
	for _, d := range devices {
		took = together(took, s.Start, d.Start)
	}
	return took
}

// No downtime is shorter than its necessary work: the stops, then the least work of each
// device, of the link and of the loaders, and the starts. A longer stop can help, though:
// the devices save ahead meanwhile, and pieces of other sizes get the link first.
func TestLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		devices := drawDevices(t)
		s := rapid.SampledFrom(Strategies(len(devices))).Draw(t, "strategy")
		link := Link{Rate: 1e9, RTT: ms}
		var stops, saved, load time.Duration
		var dirty int64
		for _, d := range devices {
			stops = together(stops, s.Stop, d.Stop)
			if d.Initial == 0 { // else it saves ahead
				saved = max(saved, d.Stop+timeFor(d.Save, d.Dirty))
			}
			load = together(load, s.Window, timeFor(d.Load, d.Dirty))
			dirty += d.Dirty
		}
		least := max(stops+max(timeFor(link.Rate, dirty), load), saved) + starts(s, devices)
		if dirty > 0 {
			least += link.RTT / 2
		}
		if s.Commit {
			least += link.RTT
		}
		if got := mustRun(t, s, link, devices...).Downtime; got < least && !near(got, least) {
			t.Errorf("%s: %v, at least %v", s.Name, got, least)
		}
	})
}

// A device that starts more slowly makes the downtime longer by the same time, less the
// time during which other devices still start.
func TestLongerStart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		devices := drawDevices(t)
		s := rapid.SampledFrom(Strategies(len(devices))).Draw(t, "strategy")
		link := Link{Rate: 1e9, RTT: ms}
		before := mustRun(t, s, link, devices...)
		d := &devices[rapid.IntRange(0, len(devices)-1).Draw(t, "device")]
		longer := -starts(s, devices)
		d.Start += 100 * ms
		longer += starts(s, devices)
		if after := mustRun(t, s, link, devices...); after.Downtime != before.Downtime+longer {
			t.Errorf("%s: %v, want %v more than %v", s.Name, after.Downtime, longer, before.Downtime)
		}
	})
}

// In the field's calibration, a larger figure makes the downtime longer, except for the bytes
// that the devices happen to have saved before the stop.
func TestMonotonicInTheField(t *testing.T) {
	vf, link := Field()
	for name, change := range map[string]func(d *Device, l *Link, by int){
		"dirty": func(d *Device, _ *Link, by int) { d.Dirty += int64(by) * 10 * mib },
		"save":  func(d *Device, _ *Link, by int) { d.Save -= int64(by) * 20 * mib },
		"load":  func(d *Device, _ *Link, by int) { d.Load -= int64(by) * 40 * mib },
		"link":  func(_ *Device, l *Link, by int) { l.Rate /= int64(1 + by) },
		"alloc": func(d *Device, _ *Link, by int) { d.Alloc += time.Duration(by) * 100 * ms },
	} {
		for _, s := range Strategies(4) {
			var last time.Duration
			for by := range 10 {
				d, l := vf, link
				change(&d, &l, by)
				got := mustRun(t, s, l, of(d, 4)...).Downtime
				if got < last-5*ms {
					t.Errorf("%s: %d steps of %s: %v, one less %v", s.Name, by, name, got, last)
				}
				last = got
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, devices := range [][]Device{nil, {{Dirty: -1}}, {{Save: -1}}, {{Buffer: 1}}, {{Stop: -1}}} {
		if r, err := Run(Strategy{}, Link{}, devices); err == nil {
			t.Errorf("%+v is accepted: %+v", devices, r)
		}
	}
}
