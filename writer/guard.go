package writer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// checkOtherCopies refuses a migration while a device holds a complete copy of another one that may
// be the only copy, and is undecided. It also refuses if it cannot find out.
func (e *engine) checkOtherCopies(mig migration.ID) *transport.Fault {
	for _, d := range e.fleet.devices {
		ids, err := d.persistedIDs()
		for _, id := range ids {
			other, bad := migration.ParseID(id)
			if bad != nil || other == mig {
				continue
			}
			var last handoff.Entry
			if last, err = e.lastRecord(other); isUndecided(last.Record) {
				err = fmt.Errorf("%w: migration %v is recorded as %v; continue it, or end it, first", ErrHoldsAnother, other, last.Record)
			}
			if err != nil {
				break
			}
		}
		if err != nil {
			code := transport.CodeBusy
			if errors.Is(err, ErrHoldsAnother) {
				code = transport.CodeHeld
			}
			return &transport.Fault{Code: code, Device: d.Name, Err: err}
		}
	}
	return nil
}

// ErrHoldsAnother says that a device holds a complete copy of another migration.
var ErrHoldsAnother = errors.New("the device holds the complete copy of another migration")

// isUndecided reports whether a copy with such a record still needs its source or a person.
func isUndecided(r handoff.Record) bool {
	return r == handoff.Ready || r == handoff.Accept || r == handoff.Forced || r == handoff.Lost
}

// lastRecord is the newest record of a migration, the zero Entry if nothing is known of it.
func (e *engine) lastRecord(mig migration.ID) (handoff.Entry, error) {
	j, err := e.opts.Journals(mig, true)
	if errors.Is(err, fs.ErrNotExist) {
		return handoff.Entry{}, nil
	}
	if err != nil {
		return handoff.Entry{}, fmt.Errorf("the device holds something of migration %v: %w", mig, err)
	}
	last := j.Last()
	if c, ok := j.(io.Closer); ok {
		c.Close()
	}
	return last, nil
}
