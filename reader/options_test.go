package reader

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/must"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/sim"
)

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		opts *Options
		want string // the field that the error names; "" for none
	}{
		{nil, ""},
		{&Options{}, ""},
		{&Options{ChunkSize: 4096, Memory: 4096, Lanes: transport.MaxLanes}, ""},
		{&Options{ChunkSize: wire.MaxChunk}, ""},
		{&Options{ChunkSize: 4095}, "ChunkSize"},
		{&Options{ChunkSize: -1}, "ChunkSize"},
		{&Options{ChunkSize: wire.MaxChunk + 1}, "ChunkSize"},
		{&Options{Memory: 1<<20 - 1}, "Memory"},
		{&Options{Memory: -1}, "Memory"},
		{&Options{Lanes: -1}, "Lanes"},
		{&Options{Lanes: transport.MaxLanes + 1}, "Lanes"},
		{&Options{DowntimeTarget: -1}, "DowntimeTarget"},
		{&Options{MaxPrecopy: -time.Second}, "Options.MaxPrecopy is -1s"},
		{&Options{DoubtFor: -time.Second}, "Options.DoubtFor is -1s"},
		{&Options{MaxRounds: -1}, "MaxRounds"},
		{&Options{Attempt: migration.Attempt{Mig: migration.NewID()}}, "Attempt.Epoch"},
	} {
		o, err := c.opts.withDefaults()
		if c.want == "" {
			if err != nil || o.Journal == nil || o.Observe == nil || o.Attempt.Epoch != 1 {
				t.Errorf("%+v: %v; defaults %+v", c.opts, err, o)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), "reader: ") || !strings.Contains(err.Error(), "Options.") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want an error that names Options.%s", c.opts, err, c.want)
		}
	}
}

func TestCheckSources(t *testing.T) {
	d, err := sim.Open("mtty", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	many := func(n int) (list []Source) {
		for i := range n {
			list = append(list, Source{Name: fmt.Sprint("d", i), Device: d})
		}
		return list
	}
	for _, c := range []struct {
		sources []Source
		want    string
	}{
		{many(1), ""},
		{many(wire.MaxDevices), ""},
		{nil, "0 devices"},
		{many(wire.MaxDevices + 1), "65 devices"},
		{[]Source{{Name: "a", Device: nil}}, `"a") is nil`},
		{[]Source{{Name: "", Device: d}}, "device 0 has the name"},
		{[]Source{{Name: strings.Repeat("n", wire.MaxName), Device: d}}, ""},
		{[]Source{{Name: strings.Repeat("n", wire.MaxName+1), Device: d}}, "1 to 64 bytes"},
		{[]Source{{Name: "a", Device: d}, {Name: "b", Device: d}, {Name: "a", Device: d}}, `two devices have the name "a"`},
		{[]Source{{Name: "a", Device: d, Priority: wire.MaxPriority}}, ""},
		{[]Source{{Name: "a", Device: d, Priority: wire.MaxPriority + 1}}, "priority 17, must be 1 to 16"},
		{[]Source{{Name: "a", Device: d, Priority: -1}}, "priority -1"},
	} {
		err := checkSources(c.sources)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d sources: %v, want %q", len(c.sources), err, c.want)
		}
	}
}

func TestCheckWelcome(t *testing.T) {
	h := &wire.Hello{Versions: wire.Versions{Min: 1, Max: 2}, ChunkSize: 1 << 20, Lanes: 4, Devices: make([]wire.DeviceOffer, 2)}
	good := wire.Welcome{Version: 2, ChunkSize: 4096, Lanes: 4, Windows: make([]wire.Window, 2)}
	for _, c := range []struct {
		name   string
		change func(*wire.Welcome)
		ok     bool
	}{
		{"good", func(*wire.Welcome) {}, true},
		{"version below", func(w *wire.Welcome) { w.Version = 0 }, false},
		{"version above", func(w *wire.Welcome) { w.Version = 3 }, false},
		{"no chunk", func(w *wire.Welcome) { w.ChunkSize = 0 }, false},
		{"larger chunk", func(w *wire.Welcome) { w.ChunkSize = 1<<20 + 1 }, false},
		{"no lane", func(w *wire.Welcome) { w.Lanes = 0 }, false},
		{"more lanes", func(w *wire.Welcome) { w.Lanes = 5 }, false},
		{"window missing", func(w *wire.Welcome) { w.Windows = w.Windows[:1] }, false},
		{"window too many", func(w *wire.Welcome) { w.Windows = make([]wire.Window, 3) }, false},
		{"splice without an offer", func(w *wire.Welcome) { w.Splice = []bool{false, true} }, false},
	} {
		w := good
		c.change(&w)
		if err := checkWelcome(h, &w); (err == nil) != c.ok || err != nil && !errors.Is(err, transport.ErrProtocol) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestOnly(t *testing.T) {
	for _, c := range []struct {
		prefers, takes, want codec.ID
	}{
		{codec.IDZstd, codec.IDZstd, codec.IDZstd},
		{codec.IDZstd, codec.IDS2, codec.IDRaw},
		{codec.IDRaw, codec.IDS2, codec.IDRaw},
	} {
		p := newCodecFilter(codec.Fixed(must.Get(codec.ByID(c.prefers))), []codec.ID{c.takes})
		if got := p.Choose(0, nil).Codec.ID(); got != c.want {
			t.Errorf("a policy for %v at a destination with %v gives %v, want %v", c.prefers, c.takes, got, c.want)
		}
	}
}

func TestLanesFor(t *testing.T) {
	const mib = 1 << 20
	quic := func(rtt time.Duration) transport.Carrier { return transport.Carrier{RTT: rtt, Window: 14_520_000} }
	for _, c := range []struct {
		name    string
		carrier transport.Carrier
		memory  int
		limit   uint64
		cores   int
		want    int
	}{
		{"a short path", quic(100 * time.Microsecond), 1 << 30, 0, 2, 2},
		{"one core", quic(100 * time.Microsecond), 1 << 30, 0, 1, 2},
		{"many cores", quic(100 * time.Microsecond), 1 << 30, 0, 16, 8},
		{"more cores than lanes", quic(100 * time.Microsecond), 1 << 30, 0, 128, transport.MaxLanes},
		{"a long path fills the memory", quic(50 * time.Millisecond), 32 * mib, 0, 2, 3},
		{"with more of it", quic(50 * time.Millisecond), 128 * mib, 0, 2, 10},
		{"with any amount", quic(50 * time.Millisecond), 1 << 30, 0, 2, transport.MaxLanes},
		{"10 ms at 100 Gbit/s", quic(10 * time.Millisecond), 1 << 30, 0, 2, 9},
		{"a limit needs fewer", quic(50 * time.Millisecond), 1 << 30, 1.25e9, 2, 5},
		{"a low limit", quic(time.Second), 1 << 30, 1e6, 2, 2},
		{"a limit beyond any path", quic(10 * time.Millisecond), 1 << 30, 1 << 60, 2, 9},
		{"smaller windows", transport.Carrier{RTT: 50 * time.Millisecond, Window: 4 * mib}, 32 * mib, 0, 2, 8},
		{"a busy host next door", quic(4 * time.Millisecond), 1 << 30, 0, 2, 2},
		{"nothing was measured", quic(0), 1 << 30, 0, 4, 2},
		{"a carrier within the host", transport.Carrier{}, 1 << 30, 0, 2, 2},
	} {
		if got := lanesFor(c.carrier, c.memory, c.limit, c.cores); got != c.want {
			t.Errorf("%s: %d lanes, want %d", c.name, got, c.want)
		}
	}
}
