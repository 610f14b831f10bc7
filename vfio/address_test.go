package vfio

import (
	"path"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for s, want := range map[string]address{
		"/dev/vfio/devices/vfio0":              {path: "/dev/vfio/devices/vfio0"},
		"/dev/vfio/../vfio//devices/vfio0":     {path: "/dev/vfio/devices/vfio0"},
		"0000:3b:00.1":                         {pci: "0000:3b:00.1"},
		"10000:3B:1F.7":                        {pci: "10000:3b:1f.7"},
		"3b:00.1":                              {pci: "0000:3b:00.1"},
		"83B8F4F2-509f-382f-3c1e-e6bfe0fa1001": {mdev: "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"},
	} {
		if got, err := parseAddress(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "vfio0", "0000:3b:00", "0000:3b:20.0", "0000:3b:00.8", "3b:00.1/..", "../x", "/a\x00b"} {
		if got, err := parseAddress(s); err == nil {
			t.Errorf("%q: taken for %+v", s, got)
		}
	}
}

// FuzzParseAddress: what is accepted is one thing, in a form that is stable and
// that cannot leave its folder in sysfs.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"/dev/vfio/devices/vfio0", "0000:3b:00.1", "3b:00.1", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "vfio0", "../..",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			if a != (address{}) {
				t.Fatalf("%q: error and %+v", s, a)
			}
			return
		}
		canonical := a.path + a.pci + a.mdev
		if again, err := parseAddress(canonical); err != nil || again != a {
			t.Fatalf("%q: %+v, and its own form gives %+v, %v", s, a, again, err)
		}
		if name := a.pci + a.mdev; strings.ContainsAny(name, "/\x00") || name == ".." {
			t.Fatalf("%q: %q leaves its folder", s, name)
		}
		if a.path != "" && path.Clean(a.path) != a.path {
			t.Fatalf("%q: %q is not clean", s, a.path)
		}
	})
}
