package writer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// describedDevice is a device with a given description.
type describedDevice struct {
	vfio.Device
	info     vfio.Info
	features vfio.Features
}

func (d describedDevice) Describe() vfio.Info     { return d.info }
func (d describedDevice) Features() vfio.Features { return d.features }

func TestAgree(t *testing.T) {
	flags := vfio.Features{P2P: true}.MigrationFlags()
	target := describedDevice{info: vfio.Info{Driver: "drv", Vendor: 1, Device: 2}, features: vfio.Features{P2P: true}}
	offer := wire.DeviceOffer{Name: "a", Driver: "drv", Vendor: 1, Device: 2, Flags: flags}
	other := func(change func(*wire.DeviceOffer)) []wire.DeviceOffer {
		o := offer
		change(&o)
		return []wire.DeviceOffer{o}
	}
	named := func(names ...string) (list []wire.DeviceOffer) {
		for _, n := range names {
			list = append(list, other(func(o *wire.DeviceOffer) { o.Name = n })...)
		}
		return list
	}
	for _, c := range []struct {
		name    string
		hello   wire.Hello
		targets string // names of the targets
		code    transport.Code
		says    []string // the refusal names both values
		changed vfio.Info
	}{
		{name: "same", hello: wire.Hello{Devices: named("a")}, targets: "a"},
		{name: "another order", hello: wire.Hello{Devices: named("b", "a", "c")}, targets: "a b c"},
		{name: "older source", hello: wire.Hello{Versions: wire.Versions{Min: 0, Max: 0}, Devices: named("a")}, targets: "a",
			code: transport.CodeVersion, says: []string{"0 to 0", "1 to 1"}},
		{name: "newer source", hello: wire.Hello{Versions: wire.Versions{Min: 2, Max: 9}, Devices: named("a")}, targets: "a",
			code: transport.CodeVersion, says: []string{"2 to 9", "1 to 1"}},
		{name: "name at the source only", hello: wire.Hello{Devices: named("a", "b")}, targets: "a",
			code: transport.CodeDevices, says: []string{"[a b]", "[a]"}},
		{name: "name at the destination only", hello: wire.Hello{Devices: named("a")}, targets: "a b",
			code: transport.CodeDevices, says: []string{"[a]", "[a b]"}},
		{name: "different names", hello: wire.Hello{Devices: named("x")}, targets: "a",
			code: transport.CodeDevices, says: []string{"[x]", "[a]"}},
		{name: "twice in HELLO", hello: wire.Hello{Devices: named("a", "a")}, targets: "a b",
			code: transport.CodeDevices, says: []string{"[a a]", "[a b]"}},
		{name: "no devices", targets: "a", code: transport.CodeDevices, says: []string{"[]", "[a]"}},
		{name: "hostile name", hello: wire.Hello{Devices: named("a\n\x1b[2J")}, targets: "a",
			code: transport.CodeDevices, says: []string{`\n\x1b`}},
		{name: "chunks of nothing", hello: wire.Hello{Devices: named("a"), ChunkSize: 1}, targets: "a", code: transport.CodeProtocol},
		{name: "driver", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Driver = "drw" })}, targets: "a",
			code: transport.CodeIncompatible, says: []string{"drw", "drv"}},
		{name: "unknown driver", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Driver = "" })}, targets: "a"},
		{name: "vendor", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Vendor = 3 })}, targets: "a",
			code: transport.CodeIncompatible, says: []string{"0003:0002", "0001:0002"}},
		{name: "device id", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Device = 3 })}, targets: "a",
			code: transport.CodeIncompatible, says: []string{"0001:0003", "0001:0002"}},
		{name: "unknown ids", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Vendor, o.Device = 0, 0 })}, targets: "a"},
		{name: "flags", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Flags = 1 })}, targets: "a",
			code: transport.CodeIncompatible, says: []string{"0x1", "0x3"}},
		{name: "most priority", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Priority = 16 })}, targets: "a"},
		{name: "more priority", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Priority = 17 })}, targets: "a",
			code: transport.CodeLimit, says: []string{"17", "16"}},
		{name: "file at the source", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Driver, o.Flags = "file", 1 })}, targets: "a"},
		{name: "file at the destination", hello: wire.Hello{Devices: other(func(o *wire.DeviceOffer) { o.Flags = 1 })}, targets: "a",
			changed: vfio.Info{Driver: "file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := c.hello
			if h.Versions == (wire.Versions{}) && c.code != transport.CodeVersion {
				h.Versions = wire.Versions{Min: 1, Max: 1}
			}
			if h.Lanes, h.ChunkSize = 40, h.ChunkSize^1; h.ChunkSize == 1 { // 0 asks for the usual, 1 for none
				h.ChunkSize = 1 << 30
			}
			var targets []Target
			for n := range strings.FieldsSeq(c.targets) {
				d := target
				if c.changed != (vfio.Info{}) {
					d.info = c.changed
				}
				targets = append(targets, Target{Name: n, Device: d})
			}
			terms, fault := agree(&h, targets, Options{ChunkSize: 1 << 20, Memory: 32 << 20})
			if c.code != 0 {
				if fault == nil || fault.Code != c.code {
					t.Fatalf("fault %+v, want code %v", fault, c.code)
				}
				for _, s := range c.says {
					if !strings.Contains(fault.Error(), s) {
						t.Errorf("%q does not name %q", fault, s)
					}
				}
				return
			}
			if fault != nil {
				t.Fatal(fault)
			}
			if terms.version != 1 || terms.chunkSize != 1<<20 || terms.lanes != transport.MaxLanes {
				t.Errorf("terms %+v", terms)
			}
			for i, o := range h.Devices {
				if terms.targets[i].Name != o.Name {
					t.Errorf("device %q goes to %q", o.Name, terms.targets[i].Name)
				}
			}
		})
	}
}

func TestAgreed(t *testing.T) {
	if got := agreedCodecs(nil); !slices.Equal(got, []codec.ID{codec.IDRaw, codec.IDZero}) {
		t.Errorf("nothing offered, %v agreed", got)
	}
	if got := agreedCodecs([]codec.ID{200, codec.IDS2, codec.IDRaw, 201}); !slices.Equal(got, []codec.ID{codec.IDRaw, codec.IDZero, codec.IDS2}) {
		t.Errorf("raw, s2 and two unknown codecs offered, %v agreed", got)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		opts *Options
		want string // the field that the error names; "" for none
	}{
		{nil, ""},
		{&Options{ChunkSize: 4096, Memory: 4096}, ""},
		{&Options{MaxState: wire.MaxStream}, ""},
		{&Options{ChunkSize: 4095}, "Options.ChunkSize"},
		{&Options{ChunkSize: wire.MaxChunk + 1}, "Options.ChunkSize"},
		{&Options{Memory: 4096}, "Options.Memory"},
		{&Options{Memory: -1}, "Options.Memory"},
		{&Options{DiscardReadyAfter: -1}, "Options.DiscardReadyAfter is -1ns"},
		{&Options{MaxState: wire.MaxStream + 1}, "Options.MaxState"},
	} {
		o, err := c.opts.withDefaults()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.opts, err, c.want)
		}
		if err == nil && (o.Journals == nil || o.Observe == nil) {
			t.Errorf("%+v: defaults %+v", c.opts, o)
		}
	}
}

func TestCheckTargets(t *testing.T) {
	d, err := sim.Open("mtty", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	many := func(n int) (list []Target) {
		for i := range n {
			list = append(list, Target{Name: fmt.Sprint("d", i), Device: d})
		}
		return list
	}
	for _, c := range []struct {
		targets []Target
		want    string
	}{
		{many(wire.MaxDevices), ""},
		{nil, "0 devices"},
		{many(wire.MaxDevices + 1), "65 devices"},
		{[]Target{{Name: "a"}}, `"a") is nil`},
		{[]Target{{Name: "", Device: d}}, "device 0 has the name"},
		{[]Target{{Name: strings.Repeat("n", wire.MaxName+1), Device: d}}, "1 to 64 bytes"},
		{[]Target{{Name: "a", Device: d}, {Name: "a", Device: d}}, `two devices have the name "a"`},
	} {
		err := checkTargets(c.targets)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d targets: %v, want %q", len(c.targets), err, c.want)
		}
	}
}

// TestFit checks that a source's wish does not push the destination past its memory.
func TestFit(t *testing.T) {
	for _, c := range []struct {
		memory, chunk, lanes, devices int
		wantChunk, wantLanes          int
	}{
		{32 << 20, 1 << 20, 2, 1, 1 << 20, 2},
		{4 << 20, 1 << 20, 16, 1, 1 << 20, 2},
		{4 << 20, 4 << 20, 16, 1, 1 << 20, 1},
		{64 << 10, 1 << 20, 16, 4, 4096, 1},
		{4096, 4096, 1, 64, 4096, 1}, // the minimum
	} {
		tm := terms{chunkSize: c.chunk, lanes: c.lanes}
		tm.fitMemory(c.memory, c.devices)
		if tm.chunkSize != c.wantChunk || tm.lanes != c.wantLanes {
			t.Errorf("%+v: chunks of %d over %d lanes", c, tm.chunkSize, tm.lanes)
		}
	}
}

// storedDevice is a device that stores its state in a place.
type storedDevice struct {
	vfio.Device
	free  uint64
	place string
}

func (s storedDevice) Room() (uint64, string, error) { return s.free, s.place, nil }

// TestDoubts checks that estimates above the free room are reported, and refuse nothing. Devices of
// one place share its room.
func TestDoubts(t *testing.T) {
	targets := []Target{{Device: storedDevice{free: 100, place: "a"}}, {Device: storedDevice{free: 100, place: "a"}}, {Device: storedDevice{free: 100, place: "b"}}, {Device: new(nullDevice)}, {Device: storedDevice{free: 100, place: "a"}}}
	terms := terms{targets: targets}
	for _, c := range []struct {
		estimates [5]uint64
		want      string
	}{
		{[5]uint64{60, 40, 100, 900}, ""},
		{[5]uint64{60, 41, 0, 0}, "device d0, d1: the state is estimated at 101 bytes, holes included, and the place where it is stored has 100 free"},
		{[5]uint64{60, 41, 0, 0, 70}, "device d0, d1, d4: the state is estimated at 171 bytes, holes included, and the place where it is stored has 100 free"},
		{[5]uint64{0, 0, 101, 0}, "device d2: the state is estimated at 101 bytes"},
		{[5]uint64{0, 0, 0, 1001}, "device d3: its state is estimated at 1001 bytes, and a state may have 1000"},
		{[5]uint64{1 << 63, 1 << 63, 0, 0}, "estimated at 9223372036854775808 bytes, and a state may have 1000"},
	} {
		var offered []wire.DeviceOffer
		for i, n := range c.estimates {
			offered = append(offered, wire.DeviceOffer{Name: string([]byte{'d', byte('0' + i)}), Estimate: n})
		}
		got := terms.listDoubts(offered, 1000)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("estimates of %v: %q, want %q", c.estimates, got, c.want)
		}
	}
}

// TestDoubtsOfMany checks that the sum of many of the largest estimates stays above the room.
func TestDoubtsOfMany(t *testing.T) {
	var offered []wire.DeviceOffer
	var terms terms
	for range wire.MaxDevices {
		offered = append(offered, wire.DeviceOffer{Name: "d", Estimate: wire.MaxStream})
		terms.targets = append(terms.targets, Target{Device: storedDevice{free: 100, place: "a"}})
	}
	if got := terms.listDoubts(offered, wire.MaxStream); !strings.Contains(got, "has 100 free") {
		t.Errorf("%d estimates of %d bytes: %q", len(offered), uint64(wire.MaxStream), got)
	}
}
