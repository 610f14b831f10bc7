package cli

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/sim"
)

// verdict is how a run ended: what the report, the done event and the exit
// code are made of.
type verdict struct {
	scene
	report    migration.Report
	preflight *migration.Preflight // of --dry-run, nil otherwise
	started   bool                 // the engine ran
	err       error
	verified  map[string]bool // devices that can tell whether they hold the source's state
}

// exit is the exit code of the run.
func (v verdict) exit() int {
	if v.preflight != nil && v.err == nil {
		return exitCommitted // it would be
	}
	if _, ok := errors.AsType[*mistake](v.err); ok && v.report.Outcome != migration.InDoubt {
		return exitUsage
	}
	code, remote := codeOf(v.err)
	return exitCode(v.report.Outcome, code, remote)
}

// outcome is that of a migration, or the word for one that was only asked about.
func (v verdict) outcome() string {
	if v.preflight != nil {
		return "preflight"
	}
	return v.report.Outcome.String()
}

// verify asks the devices that know whether they hold what the source had.
func (v *verdict) verify(devices []opened) {
	v.verified = map[string]bool{}
	for _, d := range devices {
		s, ok := d.Device.(sim.Verifier)
		if !ok {
			continue
		}
		err := s.Verify()
		v.verified[d.name] = err == nil
		if err != nil { // which it has not found before COMMIT: see openSim
			v.report.Warnings = append(v.report.Warnings, fmt.Sprintf("device %s runs with a damaged state: %s", d.name, plainText(err)))
		}
	}
}

// close lets go of the devices. By now their states say who owns them, so a
// failure is worth no more than a warning.
func (v *verdict) close(devices []opened) {
	for _, d := range devices {
		if err := closeInTime(d); err != nil {
			v.report.Warnings = append(v.report.Warnings, fmt.Sprintf("device %s: %s", d.name, plainText(err)))
		}
	}
}

// closeLimit bounds the wait for a driver that holds on to a write: nobody would
// be told how the run ended.
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
