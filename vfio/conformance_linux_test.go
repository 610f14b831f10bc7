package vfio_test

import (
	"os"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/vfiotest"
)

// TestKernelConformance runs the suite on two kernel devices of one kind,
// named as vfio.Open takes them or as device URLs, whose state may be lost:
//
//	MIGPIPE_VFIO_DEVICE=SOURCE,DESTINATION
func TestKernelConformance(t *testing.T) {
	names := os.Getenv("MIGPIPE_VFIO_DEVICE")
	if names == "" {
		t.Skip("SKIP: MIGPIPE_VFIO_DEVICE names no devices (SOURCE,DESTINATION) to test with")
	}
	source, destination, ok := strings.Cut(names, ",")
	if !ok {
		t.Fatalf("MIGPIPE_VFIO_DEVICE=%s: want two devices, SOURCE,DESTINATION", names)
	}
	vfiotest.Run(t, vfiotest.Config{
		Source:            opens(source),
		Destination:       opens(destination),
		DetectsTruncation: detectsTruncation(t, destination),
	})
}

// opens resets a device that the test before left elsewhere than in RUNNING:
// mtty keeps its state over its last close.
func opens(name string) func(*testing.T) vfio.Device {
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

// detectsTruncation: half of the drivers load whatever they were given.
func detectsTruncation(t *testing.T, name string) bool {
	t.Helper()
	d := opens(name)(t)
	defer d.Close()
	t.Logf("%s: %+v, %+v", name, vfio.Describe(d), d.Features())
	driver := vfio.Describe(d).Driver
	return driver == "mtty" || driver == "hisi_acc"
}
