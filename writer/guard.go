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

// spareOthers refuses a migration while a device keeps a complete copy of another one,
// which may be the only one, and which nobody has decided about; or one of which that
// cannot be found out now.
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
				err = fmt.Errorf("it keeps the %v copy of migration %v: %w", last.Record, other, ErrHoldsAnother)
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

// ErrKept says that a device keeps a complete copy of another migration.
var ErrHoldsAnother = errors.New("that has to be gone on with, or given up, first")

func isUndecided(r handoff.Record) bool {
	return r == handoff.Ready || r == handoff.Accept || r == handoff.Forced || r == handoff.Lost
}

// recordOf is the newest record of a migration, the zero Entry if nothing is known of it.
func (e *engine) lastRecord(mig migration.ID) (handoff.Entry, error) {
	j, err := e.opts.Journals(mig, true)
	if errors.Is(err, fs.ErrNotExist) {
		return handoff.Entry{}, nil
	}
	if err != nil {
		return handoff.Entry{}, fmt.Errorf("it keeps something of migration %v: %w", mig, err)
	}
	last := j.Last()
	if c, ok := j.(io.Closer); ok {
		c.Close()
	}
	return last, nil
}
