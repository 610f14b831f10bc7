package vfio_test

import (
	"os"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/vfiotest"
)

// TestKernelConformance runs the suite on two kernel devices of one kind. It
// discards their state. A name is one that vfio.Open accepts, or a device URL:
//
//	MIGPIPE_VFIO_DEVICE=SOURCE,DESTINATION
func TestKernelConformance(t *testing.T) {
	names := os.Getenv("MIGPIPE_VFIO_DEVICE")
	if names == "" {
		t.Skip("SKIP: MIGPIPE_VFIO_DEVICE is not set to the devices to test (SOURCE,DESTINATION)")
	}
	source, destination, ok := strings.Cut(names, ",")
	if !ok {
		t.Fatalf("MIGPIPE_VFIO_DEVICE=%s: must name two devices, SOURCE,DESTINATION", names)
	}
	vfiotest.Run(t, vfiotest.Config{
		Source:            deviceOpener(source),
		Destination:       deviceOpener(destination),
		DetectsTruncation: detectsTruncation(t, destination),
	})
}

// deviceOpener returns a function that opens a device and resets it to RUNNING,
// if an earlier test left it in another state: mtty retains its state over its
// last close.
func deviceOpener(name string) func(*testing.T) vfio.Device {
	return func(t *testing.T) vfio.Device {
		t.Helper()
		d, err := vfio.Open(strings.TrimPrefix(name, "vfio:"))
		if err != nil {
			t.Fatal(err)
		}
		if now, err := d.State(); err != nil || now != vfio.Running {
			if err := d.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
}

// detectsTruncation reports whether the driver refuses a truncated stream. Half
// of the drivers load it.
func detectsTruncation(t *testing.T, name string) bool {
	t.Helper()
	d := deviceOpener(name)(t)
	defer d.Close()
	t.Logf("%s: %+v, %+v", name, vfio.Describe(d), d.Features())
	driver := vfio.Describe(d).Driver
	return driver == "mtty" || driver == "hisi_acc"
}
