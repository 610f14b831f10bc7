package input

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/journal"
)

func TestParseDevices(t *testing.T) {
	good := []string{
		"nic0=vfio:0000:3b:00.1",
		"nic1=vfio:/dev/vfio/devices/vfio0",
		"m=vfio:83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
		"a=fd:3",
		"f=file:/tmp/a=b?overwrite=1",
		"g=file:plain?",
		"s=sim:mlx5?size=300MiB&dirty=20MiB/s",
		"t=sim:mlx5?size=300MiB&dirty=20MiB/s",
	}
	list, err := ParseDevices(good, journal.Destination)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range list {
		if got := d.Name + "=" + d.String(); got != good[i] {
			t.Errorf("%q was read as %q", good[i], got)
		}
	}
}

func TestParseDevicesRefuses(t *testing.T) {
	tests := map[string]string{ // flags, separated by spaces, and a part of the error
		"":                                    "no --device",
		"sim:mlx5":                            "has no name",
		"=sim:mlx5":                           "the name is empty",
		"a\x1b=sim:mlx5":                      "cannot be printed",
		strings.Repeat("n", 65) + "=sim:mlx5": "longer than 64 bytes",
		"a=mlx5":                              "not a device URL",
		"a=":                                  "not a device URL",
		"a=sim:":                              "nothing follows",
		"a=tape:0":                            `unknown scheme "tape"`,
		"a=fd:x":                              "not the number",
		"a=fd:-1":                             "not the number",
		"a=fd:03":                             "not the number",
		"a=fd:99999999999":                    "not the number",
		"a=file:x?overwrite=maybe":            "overwrite",
		"a=file:x?mode=7":                     "overwrite",
		"a=sim:mlx6":                          "known are mlx5, virtio",
		"a=sim:mlx5?colour=red":               "known are alloc, buffer",
		"a=sim:mtty?size=9":                   "size 9",
		"a=sim:mtty a=sim:qat":                "two devices have the name a",
		"a=fd:3 b=fd:3":                       "both fd:3",
		"a=sim:mlx5?keep=":                    "parameter keep: must name a file",
		"a=sim:qat?keep=x b=sim:xe?keep=x":    "devices a and b are both kept in x",
		"a=vfio:00:0.0":                       "use a path as /dev/vfio/devices/vfio0",
		"a=vfio:3b:00.1 b=vfio:3b:00.1":       "both vfio:3b:00.1",
	}
	for flags, want := range tests {
		_, err := ParseDevices(strings.Fields(flags), journal.Destination)
		if _, ok := err.(*ui.Mistake); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want a mistake with %q", flags, err, want)
		}
	}
	if _, err := ParseDevices([]string{"a=file:f?foo=1"}, journal.Source); err == nil || !strings.Contains(err.Error(), "a source has no parameters") {
		t.Errorf("a parameter at the source: %v", err)
	}
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("d%d=sim:mtty", i)
	}
	if _, err := ParseDevices(many, journal.Source); err == nil {
		t.Error("65 devices were accepted")
	}
}

// TestDeviceDirectory: what is still written by name once the sandbox is entered.
func TestDeviceDirectory(t *testing.T) {
	for flag, want := range map[string][2]string{ // at the source, at the destination
		"a=sim:mlx5": {}, "a=fd:3": {}, "a=sim:mlx5?keep=x%2Fy": {"x", "x"}, "a=file:x/y": {"", "x"},
	} {
		for _, r := range []journal.Role{journal.Source, journal.Destination} {
			d, err := parseDevice(flag, r)
			if got := d.directory(r); err != nil || got != want[r-journal.Source] {
				t.Errorf("%s: directory %q, %v, want %q", flag, got, err, want[r-journal.Source])
			}
		}
	}
}

func FuzzParseDevice(f *testing.F) {
	for _, flag := range []string{"a=sim:mlx5?size=1GiB", "a=vfio:0000:3b:00.1", "a=fd:7", "a=file:x?overwrite=1", "=:"} {
		f.Add(flag)
	}
	f.Fuzz(func(t *testing.T, flag string) {
		for _, r := range []journal.Role{journal.Source, journal.Destination} {
			d, err := parseDevice(flag, r)
			if err != nil {
				if _, ok := errors.AsType[*ui.Mistake](err); !ok {
					t.Errorf("%q: %T", flag, err)
				}
				if strings.ContainsRune(err.Error(), 0x1b) {
					t.Errorf("%q: the error moves the cursor: %q", flag, err)
				}
				continue
			}
			if d.Name+"="+d.String() != flag {
				t.Errorf("%q was read as %+v", flag, d)
			}
		}
	})
}

// TestOurs: what a URL opens is the program's alone, but for what it inherits
// and for files and kept devices, which outlive it.
func TestOurs(t *testing.T) {
	want := map[string]bool{"vfio": true, "sim": true, "fd": false, "file": false}
	for _, scheme := range Schemes {
		if got, known := (Device{Scheme: scheme}).ours(), want[scheme]; got != known {
			t.Errorf("%s: %v, want %v", scheme, got, known)
		}
	}
	if (Device{Scheme: "sim", Rest: "mlx5?keep=x"}).ours() {
		t.Error("a kept device is taken for the program's alone")
	}
}
