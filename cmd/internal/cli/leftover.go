package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
)

// sweep removes what crashes have left beside files of migrations that are over, but of
// the one that is gone on with. That it cannot is no reason to refuse a new one, and is
// said by warn.
func (s *stateFlags) sweep(devices []opened, goOn *journal.Record, warn func(text string)) {
	if s.folder() == "" {
		return // nobody knows what is over
	}
	over := map[transport.MigID]bool{}
	for _, d := range devices {
		r, ok := d.Device.(vfio.Resumable)
		if !ok {
			continue
		}
		list, err := r.Left()
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		for _, l := range list {
			mig, bad := transport.ParseMigID(l.ID)
			if bad != nil || goOn != nil && goOn.Attempt.Mig == mig {
				continue // not of this program's making, or not over
			}
			failed := s.sweepOne(r, l, mig, over)
			if errors.Is(failed, fs.ErrNotExist) {
				warn(fmt.Sprintf("device %s: a crash has left something of migration %v, of which %s knows nothing: see with the --state-dir that it had, or remove what has that id in its name beside the file", d.name, mig, s.folder()))
				continue
			}
			err = errors.Join(err, failed)
		}
		if err != nil {
			warn(fmt.Sprintf("device %s: remove what earlier migrations have left: %s", d.name, plainText(err)))
		}
	}
}

// sweepOne removes what is left of one that is over, while it has its journal: nobody
// else works on it then.
func (s *stateFlags) sweepOne(r vfio.Resumable, l vfio.Leftover, mig transport.MigID, over map[transport.MigID]bool) error {
	j, err := s.journals(journal.Destination)(mig, true)
	if errors.Is(err, journal.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer j.(io.Closer).Close()
	if !over[mig] {
		ended, err := s.over(j.(*journal.Journal), l)
		if err != nil || !ended {
			return err
		}
		over[mig] = true
	}
	return r.Forget(l.ID)
}

// over reports whether nobody will go on with what a device has kept of a migration. A
// part for which no source has come for as long as migrations are remembered is given
// up: the devices are still its source's.
func (s *stateFlags) over(j *journal.Journal, l vfio.Leftover) (bool, error) {
	last, since := j.Last(), j.Since()
	if l.Since.After(since) {
		since = l.Since
	}
	switch last.Record {
	case handoff.None, handoff.Aborted, handoff.Done:
		return true, nil
	case handoff.Open:
		if time.Since(since) < s.keep {
			return false, nil
		}
	default:
		return false, nil
	}
	last.Record = handoff.Aborted
	last.Why = handoff.Why{Bytes: last.Why.Bytes, Code: transport.CodeTimeout, Text: fmt.Sprintf("its source has not come for %v", s.keep)}
	if err := j.Append(last); err != nil {
		return false, err
	}
	return true, nil
}
