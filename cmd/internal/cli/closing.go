package cli

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/continuing"
	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// verify asks the devices that can tell whether they hold the state of the source.
func verify(v *ui.Result, devices []input.Opened) {
	v.Verified = map[string]bool{}
	for _, d := range devices {
		s, ok := d.Device.(sim.Verifier)
		if !ok {
			continue
		}
		err := s.Verify()
		v.Verified[d.Name] = err == nil
		if err != nil { // which it has not found before COMMIT: see openSim
			v.Report.Warnings = append(v.Report.Warnings, fmt.Sprintf("device %s runs with a damaged state: %s", d.Name, ui.PlainText(err)))
		}
	}
}

// closeDevices closes the devices. By now their states say who owns them, so that a failure is
// worth no more than a warning.
func closeDevices(v *ui.Result, devices []input.Opened) {
	for _, d := range devices {
		if err := closeInTime(d); err != nil {
			v.Report.Warnings = append(v.Report.Warnings, fmt.Sprintf("device %s: %s", d.Name, ui.PlainText(err)))
		}
	}
}

// closeLimit bounds the wait for a driver that does not return from a write: without it the
// program would never report how the run ended.
const closeLimit = 5 * time.Second

func closeInTime(d io.Closer) error {
	done := make(chan error, 1)
	go func() { done <- d.Close() }() // ends with the driver, or with the process
	select {
	case err := <-done:
		return err
	case <-time.After(closeLimit):
		return fmt.Errorf("not closed yet after %v: a driver has not let go of it", closeLimit)
	}
}

// holdDevices keeps the process alive in doubt, while closing the devices would decide it: the
// last close of a VFIO device resets it, and only the other side knows which of the two copies
// is needed. A signal that came before the program said so is no answer to it.
func holdDevices(v *ui.Result, devices []input.Opened, show *ui.Observer) {
	if v.Report.Outcome != migration.InDoubt {
		return
	}
	for _, d := range devices {
		if d.Ours && !isBlank(v, d) {
			v.Kept = append(v.Kept, d.Name)
		}
	}
	if len(v.Kept) == 0 {
		return
	}
	if errors.Is(v.Err, writer.ErrCopyHeld) { // the program has said what is lost, and a second signal has come
		v.LetGo = true
		return
	}
	awaitSignal(show.Stderr(), func() { show.Hold(*v) })
	v.LetGo = true
}

// isBlank reports whether a device holds nothing of the migration in doubt: what it held ended
// with the process before. At the destination that is so until the engine starts.
func isBlank(v *ui.Result, d input.Opened) bool {
	if _, ok := errors.AsType[*continuing.Untried](v.Err); ok {
		return true
	}
	now, err := d.State()
	return v.Sending && err == nil && now == vfio.Running
}
