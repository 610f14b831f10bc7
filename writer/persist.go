package writer

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// sessionID is the id under which devices persist a migration's state.
func sessionID(mig migration.ID) string { return mig.String() }

// resumable reports whether every device can hold a complete copy for a later process.
func (f *fleet) resumable() bool {
	return !slices.ContainsFunc(f.devices, func(d *device) bool {
		_, ok := d.Device.(vfio.Resumable)
		return !ok
	})
}

// beginSession starts a device's session: a persistent one, if a session id is set and the device
// can.
func (f *fleet) beginSession(d *device) (vfio.Stream, error) {
	if r, ok := d.Device.(vfio.Resumable); ok && f.session != "" {
		s, err := r.Persist(f.session)
		if err == nil {
			return s, vfio.CheckSession(s)
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
	}
	return vfio.Enter(d.Device, vfio.Resuming, true)
}

// persistent reports whether every session outlives this process once it is complete: a part of a
// set is of no use.
func (f *fleet) persistent() bool {
	return f.session != "" && !slices.ContainsFunc(f.devices, func(d *device) bool {
		_, ok := d.stream.(vfio.Persistent)
		return !ok
	})
}

// persistCopy makes the device hold its copy for a later process.
func (l *loader) persistCopy() error {
	if l.note == nil {
		return nil
	}
	l.note.Digest = l.digest.Sum()
	b, err := l.note.encode()
	if err != nil {
		return err
	}
	failpoint.Reach("destination", "do", "complete")
	err = l.stream.(vfio.Persistent).Complete(b)
	failpoint.Reach("destination", "did", "complete")
	return err
}

// removeSessions removes what an earlier process persisted of a migration.
func (f *fleet) removeSessions(mig migration.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.forEach(func(d *device) error {
		r, ok := d.Device.(vfio.Resumable)
		if !ok {
			return nil
		}
		if err := r.Remove(sessionID(mig)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return d.faultOf(transport.CodeDevice, err)
		}
		return nil
	})
}

// resume takes the complete copy that every device holds for a later process, and reports its kind.
// The copy must be complete, and verified by the digest beside it. If not, the reason is unknown,
// and it may be the last copy: it stays for a later process.
func (f *fleet) resume(last handoff.Entry) (handoff.Holding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	holding, err := f.resumeAll(last)
	if err != nil {
		err = errors.Join(err, f.detach())
	}
	return holding, err
}

// detach leaves the resumed copy to a later process.
func (f *fleet) detach() error {
	return f.forEach(func(d *device) error {
		if !d.touched {
			return nil
		}
		d.touched = false
		if err := d.Device.(vfio.Resumable).Detach(); err != nil {
			return d.faultOf(transport.CodeDevice, err)
		}
		return nil
	})
}

func (f *fleet) resumeAll(last handoff.Entry) (handoff.Holding, error) {
	n := len(f.devices)
	found, committed, missing := make([]copyNote, n), make([]bool, n), make([]error, n)
	err := f.each(n, func(i int) (err error) {
		d := f.devices[i]
		found[i], err = d.resume(f.session)
		committed[i] = errors.Is(err, vfio.ErrCommitted)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errors.ErrUnsupported):
			missing[i] = d.faultOf(transport.CodeDevice, err)
		case err != nil && !committed[i]:
			return d.faultOf(transport.CodeDevice, err)
		}
		return nil
	})
	if err == nil && !slices.Contains(missing, nil) {
		return handoff.Nothing, nil
	}
	if err = errors.Join(err, errors.Join(missing...)); err == nil {
		err = verify(found, f.targets(), last)
	}
	if err == nil && last.Record == handoff.Ready && slices.Contains(committed, true) {
		err = errors.New("the copy is recorded as READY, and its file already has its final name")
	}
	if err != nil {
		return handoff.Nothing, err
	}
	f.adopted = true
	for i, d := range f.devices {
		d.hasRun = committed[i]
	}
	if slices.Contains(committed, false) {
		return handoff.Whole, nil
	}
	return handoff.Executing, nil
}
