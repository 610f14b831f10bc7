package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/transport/handoff"
)

// twoDevices need more than one slot.
var twoDevices = []Device{{"nic0", "vfio:0000:3b:00.1"}, {"state", "file:/" + strings.Repeat("long/", 36)}}

// writtenWithDevices is the bytes of a journal with the list of two devices, OPEN and COMMIT.
func writtenWithDevices(t testing.TB) []byte {
	dir := t.TempDir()
	j := open(t, dir, Options{Devices: twoDevices})
	appendAll(t, j, entry(handoff.Open, 1), entry(handoff.Commit, 1))
	j.Close()
	b, err := os.ReadFile(filepath.Join(dir, Name(Source, mig)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDevicesRecorded: the list is written with OPEN, once as long as it stays the same, and a
// process that knows no devices changes nothing.
func TestDevicesRecorded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name(Source, mig))
	expect := func(slots uint64, want ...Device) {
		t.Helper()
		all, got, err := ReadWithDevices(path)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
		if last := all[len(all)-1]; last.Seq != slots {
			t.Errorf("the newest record is in slot %d, want %d", last.Seq, slots)
		}
	}
	j := open(t, dir, Options{Devices: twoDevices})
	expect(1)
	size := fileSize(t, j)
	appendAll(t, j, entry(handoff.Open, 1), entry(handoff.Owner, 1))
	expect(5, twoDevices...) // the first record, two slots, OPEN and OWNER
	if got := fileSize(t, j); got <= size {
		t.Errorf("no room was reserved: %d bytes, before %d", got, size)
	}
	appendAll(t, j, entry(handoff.Open, 2))
	expect(6, twoDevices...)
	j.Close()
	j = open(t, dir, Options{})
	appendAll(t, j, entry(handoff.Open, 3))
	expect(7, twoDevices...)
	j.Close()
	moved := []Device{{"nic0", "vfio:0000:5e:00.1"}}
	j = open(t, dir, Options{Devices: moved})
	appendAll(t, j, entry(handoff.Open, 4))
	expect(9, moved...)
}

// TestDevicesTorn: a list that a crash has torn is no list, the one before counts, and the
// next process writes its own behind it.
func TestDevicesTorn(t *testing.T) {
	whole := writtenWithDevices(t)
	for slots := 1; slots <= 3; slots++ { // behind the first record, the head, and the tail
		for _, torn := range []int{0, 1, recordLen / 2, recordLen - 1} {
			b := make([]byte, len(whole))
			copy(b, whole[:slots*recordLen+torn])
			if bytes.Equal(b[slots*recordLen:][:recordLen], whole[slots*recordLen:][:recordLen]) {
				continue // the slot ends in a zero, as one checksum in 256 does
			}
			dir := t.TempDir()
			path := filepath.Join(dir, Name(Source, mig))
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, got, err := ReadWithDevices(path); err != nil || (slots == 3) != slices.Equal(got, twoDevices) {
				t.Errorf("torn at slot %d, byte %d: %v, %v", slots+1, torn, got, err)
			}
			j := open(t, dir, Options{Devices: twoDevices})
			appendAll(t, j, entry(handoff.Open, 1))
			j.Close()
			if all, got, err := ReadWithDevices(path); err != nil || len(all) != 2 || !slices.Equal(got, twoDevices) {
				t.Errorf("torn at slot %d, byte %d, and opened again: %d records, %v, %v", slots+1, torn, len(all), got, err)
			}
		}
	}
}

// TestDeviceIs: addresses decide where both are known, however long they are.
func TestDeviceIs(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		a, b Device
		want bool
	}{
		{Device{"a", "x"}, Device{"b", "x"}, true},
		{Device{"a", "x"}, Device{"a", "y"}, false},
		{Device{"a", ""}, Device{"a", "y"}, true},
		{Device{"a", "x"}, Device{"b", ""}, false},
		{Device{"a", long + "1"}, Device{"a", long + "2"}, false},
		{Device{"a", long}, Device{"a", shorten(long)}, true},
	} {
		if c.a.Is(c.b) != c.want || c.b.Is(c.a) != c.want {
			t.Errorf("%v is %v: %v", c.a, c.b, !c.want)
		}
	}
	a, b, c := Device{"a", "1"}, Device{"b", "2"}, Device{"c", "3"}
	for _, row := range []struct {
		recorded, others  []Device
		concerns, areThey bool
	}{
		{nil, []Device{a}, true, true},
		{[]Device{a, b}, []Device{b, a}, true, true},
		{[]Device{a, b}, []Device{b, c}, true, false},
		{[]Device{a, b}, []Device{a}, true, false},
		{[]Device{a}, []Device{b, c}, false, false},
	} {
		if got := Concerns(row.recorded, row.others); got != row.concerns {
			t.Errorf("%v concerns %v: %v", row.recorded, row.others, got)
		}
		if got := AreThese(row.recorded, row.others); got != row.areThey {
			t.Errorf("%v are %v: %v", row.recorded, row.others, got)
		}
	}
}

// TestDevicesRoundTrip: every list that may be recorded is read as it was written.
func TestDevicesRoundTrip(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		var list []Device
		for range rapid.IntRange(0, 64).Draw(rt, "devices") {
			list = append(list, Device{rapid.StringN(1, 60, 64).Draw(rt, "name"), rapid.StringN(0, 200, maxAddress).Draw(rt, "address")})
		}
		n++
		sub := filepath.Join(dir, fmt.Sprint(n))
		j := open(t, sub, Options{Devices: list})
		appendAll(t, j, entry(handoff.Open, 1))
		j.Close()
		if _, got, err := ReadWithDevices(filepath.Join(sub, Name(Source, mig))); err != nil || !slices.Equal(got, list) {
			rt.Errorf("%v came back as %v, %v", list, got, err)
		}
	})
}

// TestNoDevices: bytes that are no list are any device, and a name that fits nowhere is refused.
func TestNoDevices(t *testing.T) {
	for _, b := range [][]byte{{5}, {1, 'a'}, {1, 'a', 3, 'b'}, {0, 0}, bytes.Repeat([]byte{255}, 20)} {
		if got := decodeDevices(b); got != nil {
			t.Errorf("%v is the list %v", b, got)
		}
	}
	for _, name := range []string{"", strings.Repeat("n", 256)} {
		if _, err := Open(t.TempDir(), Options{Role: Source, Mig: mig, Devices: []Device{{Name: name}}}); err == nil {
			t.Errorf("recorded a device with a name of %d bytes", len(name))
		}
	}
}
