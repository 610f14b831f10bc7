package continuing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Sweep removes what crashes have left beside files of migrations that are over, except of the
// one that continues. A failure is no reason to refuse a new migration: warn reports it.
func (s *State) Sweep(devices []input.Opened, continued *journal.Record, warn func(text string)) {
	if s.Directory() == "" {
		return // without journals it is not known which migrations are over
	}
	for _, d := range devices {
		r, ok := d.Device.(vfio.Resumable)
		if !ok {
			continue
		}
		list, err := r.Persisted()
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		for _, p := range list {
			mig, bad := migration.ParseID(p.ID)
			if bad != nil || continued != nil && continued.Attempt.Mig == mig {
				continue // not of this program's making, or not over
			}
			failed := s.sweepOne(r, p.ID, mig)
			if errors.Is(failed, fs.ErrNotExist) {
				warn(fmt.Sprintf("device %s: a crash has left something of migration %v, of which %s knows nothing: see with the --state-dir that it had, or remove what has that id in its name beside the file", d.Name, mig, s.Directory()))
				continue
			}
			err = errors.Join(err, failed)
		}
		if err != nil {
			warn(fmt.Sprintf("device %s: remove what earlier migrations have left: %s", d.Name, ui.PlainText(err)))
		}
	}
}

// sweepOne removes what is left of a migration that is over. It has the journal open meanwhile:
// no other process works on the migration then.
func (s *State) sweepOne(r vfio.Resumable, id string, mig migration.ID) error {
	j, err := s.Journals(journal.Destination)(mig, true)
	if errors.Is(err, journal.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer j.(io.Closer).Close()
	switch j.Last().Record {
	case handoff.None, handoff.Open, handoff.Aborted, handoff.Done: // of OPEN, READY was never sent
		return r.Remove(id)
	}
	return nil
}
