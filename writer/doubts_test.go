package writer

import (
	"strings"
	"testing"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// stored is a device whose state goes into a place.
type stored struct {
	vfio.Device
	free  uint64
	place string
}

func (s stored) Room() (uint64, string, error) { return s.free, s.place, nil }

// TestDoubts: estimates above what there is are told, and refuse nothing. Devices of one place
// share its room.
func TestDoubts(t *testing.T) {
	sinks := []Sink{{Device: stored{free: 100, place: "a"}}, {Device: stored{free: 100, place: "a"}}, {Device: stored{free: 100, place: "b"}}, {Device: new(null)}, {Device: stored{free: 100, place: "a"}}}
	terms := terms{sinks: sinks}
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
		var offered []transport.DeviceOffer
		for i, n := range c.estimates {
			offered = append(offered, transport.DeviceOffer{Name: string([]byte{'d', byte('0' + i)}), Estimate: n})
		}
		got := terms.doubts(offered, 1000)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("estimates of %v: %q, want %q", c.estimates, got, c.want)
		}
	}
}

// TestDoubtsOfMany: the sum of many estimates stays above the room, as large as a source may say
// that they are.
func TestDoubtsOfMany(t *testing.T) {
	var offered []transport.DeviceOffer
	var terms terms
	for range transport.MaxDevices {
		offered = append(offered, transport.DeviceOffer{Name: "d", Estimate: transport.MaxStream})
		terms.sinks = append(terms.sinks, Sink{Device: stored{free: 100, place: "a"}})
	}
	if got := terms.doubts(offered, transport.MaxStream); !strings.Contains(got, "has 100 free") {
		t.Errorf("%d estimates of %d bytes: %q", len(offered), uint64(transport.MaxStream), got)
	}
}
