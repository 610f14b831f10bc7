package cli

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// closable is a device that knows whether it is still open.
type closable struct {
	vfio.Device
	closed bool
}

func (c *closable) State() (vfio.State, error) { return vfio.StopCopy, nil }

func (c *closable) Close() error { c.closed = true; return nil }

// stuckDevice cannot be closed while its driver holds on to a write.
type stuckDevice struct {
	vfio.Device
	free chan struct{}
}

func (d *stuckDevice) Close() error { <-d.free; return nil }

// TestCloseStuckDevice: the run is reported all the same, and the other devices are closed.
func TestCloseStuckDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, other := &stuckDevice{free: make(chan struct{})}, &closable{}
		v := ui.Result{}
		closeDevices(&v, []input.Opened{{Name: "nic0", Device: stuck, Ours: true}, {Name: "acc0", Device: other, Ours: true}})
		if w := v.Report.Warnings; len(w) != 1 || !strings.Contains(w[0], "device nic0: not closed yet") || !other.closed {
			t.Errorf("warnings %q, the other closed: %v", w, other.closed)
		}
		close(stuck.free)
	})
}

func TestHold(t *testing.T) {
	tests := []struct {
		name    string
		outcome migration.Outcome
		ours    []bool
		stays   bool
	}{
		{"in doubt", migration.InDoubt, []bool{true}, true},
		{"in doubt, one of two", migration.InDoubt, []bool{false, true}, true},
		{"in doubt, a VMM's device", migration.InDoubt, []bool{false}, false},
		{"in doubt, no device", migration.InDoubt, nil, false},
		{"committed", migration.Committed, []bool{true}, false},
		{"aborted", migration.Aborted, []bool{true}, false},
		{"needs-reset", migration.NeedsReset, []bool{true}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stderr := captureStderr(t)
			v := ui.Result{Scene: ui.Scene{Sending: true}, Report: migration.Report{Outcome: tt.outcome}, Err: errors.New("no answer")}
			var devices []input.Opened
			for i, ours := range tt.ours {
				devices = append(devices, input.Opened{Name: fmt.Sprint("d", i), Device: &closable{}, Ours: ours})
			}
			ended := make(chan struct{})
			go func() { // the signal ends it, where it stays
				holdDevices(&v, devices, ui.NewObserver("mig-send", false, true))
				close(ended)
			}()
			if tt.stays {
				waitFor(t, func() bool { return strings.Contains(stderr(), "hint: Ctrl-C or kill") })
				signalSelf(t, syscall.SIGHUP)
				select {
				case <-ended:
					t.Error("the end of a terminal let go")
				case <-time.After(50 * time.Millisecond):
				}
				signalSelf(t, syscall.SIGTERM)
			}
			<-ended
			if v.LetGo != tt.stays || !tt.stays && stderr() != "" {
				t.Errorf("let go %v, want %v; it said:\n%s", v.LetGo, tt.stays, stderr())
			}
			for _, d := range devices {
				if d.Device.(*closable).closed {
					t.Errorf("%s was closed", d.Name)
				}
			}
		})
	}
}
