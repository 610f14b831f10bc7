package cli

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
)

// sweep removes what crashes have left beside files of migrations that are over. That it
// cannot is no reason to refuse a new one, and is said by warn.
func (s *stateFlags) sweep(devices []opened, warn func(text string)) {
	left, err := s.left(journal.Destination)
	if s.folder() == "" || err != nil {
		return // nobody knows what is over
	}
	for _, d := range devices {
		if r, ok := d.Device.(vfio.Resumable); ok {
			if err := s.sweepOne(d.name, r, left, warn); err != nil {
				warn(fmt.Sprintf("device %s: remove what earlier migrations have left: %s", d.name, plainText(err)))
			}
		}
	}
}

func (s *stateFlags) sweepOne(name string, r vfio.Resumable, left remains, warn func(text string)) error {
	ids, err := r.Left()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	for _, id := range ids {
		mig, bad := parseMigration(id)
		if bad != nil {
			continue // not of this program's making
		}
		last := left.of(mig)
		if last == nil {
			warn(fmt.Sprintf("device %s: a crash has left something of migration %v, which %s knows nothing of: see its --state-dir, or remove .*.%v.resumable beside the file", name, mig, s.folder(), mig))
			continue
		}
		over, failed := s.over(last)
		if over {
			failed = errors.Join(failed, r.Forget(id))
		}
		err = errors.Join(err, failed)
	}
	return err
}

// over reports whether nobody will go on with what a device has kept of a migration. A
// part for which no source has come for as long as migrations are remembered is given
// up: the devices are still its source's.
func (s *stateFlags) over(last *journal.Record) (bool, error) {
	switch last.Record {
	case handoff.None, handoff.Aborted, handoff.Running, handoff.Done:
		return true, nil
	case handoff.Open:
		if time.Since(last.Time) < s.keep {
			return false, nil
		}
		return s.giveUp(last)
	}
	return false, nil
}

// giveUp records that an attempt never runs here. A journal that another process works
// on is left alone.
func (s *stateFlags) giveUp(last *journal.Record) (bool, error) {
	j, err := s.journals(journal.Destination)(last.Attempt.Mig, true)
	if errors.Is(err, journal.ErrBusy) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer j.(io.Closer).Close()
	now := j.Last()
	if now.Record != handoff.Open || now.Attempt != last.Attempt {
		return false, nil
	}
	now.Record = handoff.Aborted
	now.Why = handoff.Why{Bytes: now.Why.Bytes, Code: transport.CodeTimeout, Text: fmt.Sprintf("its source has not come for %v", s.keep)}
	return true, j.Append(now)
}

// of is the newest record of a migration, nil if there is none.
func (l remains) of(mig transport.MigID) *journal.Record {
	for i, r := range l {
		if r.Attempt.Mig == mig {
			return &l[i]
		}
	}
	return nil
}
