package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// heldScene is what a side in doubt knows of two devices that end with it.
func heldScene(sending bool) scene { return scene{sending: sending, kept: []string{"nic0", "acc0"}} }

// withoutPID makes a text the same in every process.
func withoutPID(text string) string {
	return strings.ReplaceAll(text, fmt.Sprint(os.Getpid()), "PID")
}

func TestHoldHints(t *testing.T) {
	for name, sending := range map[string]bool{"source": true, "destination": false} {
		s := heldScene(sending)
		text := strings.Join(s.holdHints(), "\n")
		s.letGo = true
		text += "\n\nlet go:\n" + strings.Join(s.hints(migration.InDoubt, io.EOF), "\n") + "\n"
		golden.Compare(t, "hints-held-"+name+".txt", withoutPID(text))
	}
}

func TestHeldEvent(t *testing.T) {
	ev := stamped{at: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC), held: heldScene(true)}
	ev.Kind, ev.Text = held, "in doubt: gone"
	var out bytes.Buffer
	j := newJSONView("mig-send", io.Discard, &out)
	j.start = ev.at
	j.event(ev)
	golden.Compare(t, "held.jsonl", withoutPID(out.String()))
	var lines bytes.Buffer
	newLineView("mig-send", &lines, &lines).event(ev)
	newBarView("mig-send", &lines, &lines).event(ev)
	if lines.Len() > 0 {
		t.Errorf("said twice: %q", lines.String())
	}
}

// TestHeldBars leaves the bars on the screen, and in doubt.
func TestHeldBars(t *testing.T) {
	var err bytes.Buffer
	b := newBarView("mig-send", &err, io.Discard)
	for _, ev := range events() {
		b.event(ev)
	}
	bar := b.bars["nic0"]
	b.event(stamped{Event: migration.Event{Kind: held}})
	if text := bar.row.text(80); !strings.HasPrefix(text, "nic0 in-doubt  [") || strings.Contains(text, "left") {
		t.Errorf("the bar says %q", text)
	}
	if b.screen != nil || len(b.bars) > 0 {
		t.Error("the bars are still drawn")
	}
	b.end(inDoubt())
}

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

// TestCloseStuckDevice: the run is told of all the same, and the others are closed.
func TestCloseStuckDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, other := &stuckDevice{free: make(chan struct{})}, &closable{}
		v := inDoubt()
		v.close([]opened{{name: "nic0", Device: stuck, ours: true}, {name: "acc0", Device: other, ours: true}})
		if w := v.report.Warnings; len(w) != 1 || !strings.Contains(w[0], "device nic0: not closed yet") || !other.closed {
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
			v := inDoubt()
			v.report.Outcome = tt.outcome
			var devices []opened
			for i, ours := range tt.ours {
				devices = append(devices, opened{name: fmt.Sprint("d", i), Device: &closable{}, ours: ours})
			}
			ended := make(chan struct{})
			go func() { // the signal ends it, where it stays
				v.hold(devices, newShow(&common{program: "mig-send", quiet: true}))
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
			if v.letGo != tt.stays || !tt.stays && stderr() != "" {
				t.Errorf("let go %v, want %v; it said:\n%s", v.letGo, tt.stays, stderr())
			}
			for _, d := range devices {
				if d.Device.(*closable).closed {
					t.Errorf("%s was closed", d.name)
				}
			}
		})
	}
}

// TestOurs: what a URL opens is the program's alone, but for what it inherits
// and for files and kept devices, which outlive it.
func TestOurs(t *testing.T) {
	want := map[string]bool{"vfio": true, "sim": true, "fd": false, "file": false}
	for _, scheme := range schemes {
		if got, known := (device{scheme: scheme}).ours(), want[scheme]; got != known {
			t.Errorf("%s: %v, want %v", scheme, got, known)
		}
	}
	if (device{scheme: "sim", rest: "mlx5?keep=x"}).ours() {
		t.Error("a kept device is taken for the program's alone")
	}
}
