package writer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// spareOthers refuses a migration while a device keeps a complete copy of another one,
// which may be the only one, and which nobody has decided about; or one of which that
// cannot be found out now.
func (e *engine) spareOthers(mig migration.ID) *transport.Fault {
	for _, d := range e.fleet.devices {
		ids, err := d.persisted()
		for _, id := range ids {
			other, bad := migration.ParseID(id)
			if bad != nil || other == mig {
				continue
			}
			var last handoff.Entry
			if last, err = e.recordOf(other); undecided(last.Record) {
				err = fmt.Errorf("it keeps the %v copy of migration %v: %w", last.Record, other, ErrKept)
			}
			if err != nil {
				break
			}
		}
		if err != nil {
			code := transport.CodeBusy
			if errors.Is(err, ErrKept) {
				code = transport.CodeHeld
			}
			return &transport.Fault{Code: code, Device: d.Name, Err: err}
		}
	}
	return nil
}

// ErrKept says that a device keeps a complete copy of another migration.
var ErrKept = errors.New("that has to be gone on with, or given up, first")

func undecided(r handoff.Record) bool {
	return r == handoff.Ready || r == handoff.Accept || r == handoff.Forced || r == handoff.Lost
}

// recordOf is the newest record of a migration, the zero Entry if nothing is known of it.
func (e *engine) recordOf(mig migration.ID) (handoff.Entry, error) {
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

// persisted gives the ids of what a device holds for a later process.
func (d *device) persisted() (ids []string, err error) {
	r, ok := d.Device.(vfio.Resumable)
	if !ok {
		return nil, nil
	}
	list, err := r.Persisted()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	return ids, err
}
