package sim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/migpipe/migpipe/vfio"
)

// TestLogFile checks that the log file has all events of a device.
func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d, err := OpenURL("mlx5?size=1&fault=set@RESUMING:EBUSY&log=" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetState(vfio.Stop); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetState(vfio.Resuming); err == nil {
		t.Fatal("the fault did not strike")
	}
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(`{"ns":`) // as a crash leaves it
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines, err := ReadLog(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []Line{
		{Event: "open", From: "RUNNING", To: "RUNNING"},
		{Event: "set", From: "RUNNING", To: "RUNNING_P2P"},
		{Event: "set", From: "RUNNING_P2P", To: "STOP"},
		{Event: "set", From: "STOP", To: "RESUMING", Err: "device or resource busy"},
		{Event: "reset", From: "STOP", To: "RUNNING"},
		{Event: "close", From: "RUNNING", To: "RUNNING"},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d: %+v", len(lines), len(want), lines)
	}
	last := int64(0)
	for i, got := range lines {
		w := want[i]
		w.NS, w.PID, w.Device = got.NS, os.Getpid(), "sim:mlx5"
		if got != w || got.NS < last {
			t.Errorf("line %d: %+v, want %+v", i, got, w)
		}
		last = got.NS
	}
}
