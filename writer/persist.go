package writer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// sessionID is the id that devices persist a migration's state under.
func sessionID(mig migration.ID) string { return mig.String() }

// persists reports whether a complete copy of this attempt is to outlive this process. It is
// of no use where a later process could not resume all of it, or would not know that it may,
// or where the source is a process of this host, which ends with it.
func (e *engine) persists() bool {
	_, lasts := e.journal.(handoff.Lasting)
	return lasts && !e.conn.local && e.fleet.resumable()
}

// resumable reports whether every device can hold a complete copy for a later process.
func (f *fleet) resumable() bool {
	return !slices.ContainsFunc(f.devices, func(d *device) bool {
		_, ok := d.Device.(vfio.Resumable)
		return !ok
	})
}

// begin starts a device's session, a persistent one where a session id is set and the device
// can.
func (f *fleet) begin(d *device) (vfio.Stream, error) {
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

// persistent reports whether every session outlives this process once it is complete: a part
// of a set is of no use.
func (f *fleet) persistent() bool {
	return f.session != "" && !slices.ContainsFunc(f.devices, func(d *device) bool {
		_, ok := d.stream.(vfio.Persistent)
		return !ok
	})
}

// complete has the device hold its copy for a later process.
func (l *loader) complete() error {
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

// removeSessions removes what a process before this one has left of a migration.
func (f *fleet) removeSessions(mig migration.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.every(func(d *device) error {
		r, ok := d.Device.(vfio.Resumable)
		if !ok {
			return nil
		}
		if err := r.Remove(sessionID(mig)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return d.fault(transport.CodeDevice, err)
		}
		return nil
	})
}

// removeRecords removes the records of what was committed, when the source has heard that the
// devices run: it does not ask again.
func (e *engine) removeRecords() {
	if e.owner.Record != handoff.Done {
		return
	}
	if err := e.fleet.removeSessions(e.owner.Attempt.Mig); err != nil {
		e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("remove the session's record: %v", err))
	}
}

// resumeFor resumes the copy that a source asks about with RESUME, if a process before this
// one has left it complete. If not, the source is answered from the journal. The files are
// opened in the loop: nothing else happens until then.
func (e *engine) resumeFor(m *wire.Resume, lane transport.Lane) {
	if e.engaged() || !e.fleet.resumable() {
		return
	}
	j, err := e.opts.Journals(m.Mig, true)
	if err != nil {
		return // the answer from the journal will name the error
	}
	if last := j.Last(); asks(j, m, lane) == nil && m.Epoch == last.Attempt.Epoch {
		resumed, err := e.resumeCopy(j)
		if resumed {
			return
		}
		if err != nil && e.complained != last.Attempt { // the source is told what is recorded
			e.complained = last.Attempt
			e.tell(migration.Event{Kind: migration.Warning, Text: cannotResume(last, err).Error()})
		}
	}
	if c, ok := j.(io.Closer); ok {
		c.Close()
	}
}

// resumeCopy continues with a complete copy that a journal records and the devices hold, and
// reports whether it can. The journal is the engine's then. An error says that the devices
// hold something complete that it cannot continue with: it leaves that as it is, for a person
// to look at.
func (e *engine) resumeCopy(j handoff.Journal) (bool, error) {
	last := j.Last()
	complete := last.Record == handoff.Ready || last.Record == handoff.Accept || last.Record == handoff.Forced
	if _, lasts := j.(handoff.Lasting); !lasts || !complete || !e.fleet.resumable() {
		return false, nil
	}
	e.fleet.session = sessionID(last.Attempt.Mig)
	holding, err := e.fleet.resume(last)
	if err != nil || holding == handoff.Nothing {
		return false, err
	}
	e.continueFrom(j, holding)
	return true, nil
}

// resume takes the complete copy that every device holds for a later process, and reports what
// that is: what was verified, by the digest beside it, and all of it. If it is not, nobody
// knows why, and it may be the last copy: it stays for a later process.
func (f *fleet) resume(last handoff.Entry) (handoff.Holding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	holding, err := f.resumeAll(last)
	if err != nil {
		err = errors.Join(err, f.detach())
	}
	return holding, err
}

// detach leaves what was resumed to a later process.
func (f *fleet) detach() error {
	return f.every(func(d *device) error {
		if !d.touched {
			return nil
		}
		d.touched = false
		if err := d.Device.(vfio.Resumable).Detach(); err != nil {
			return d.fault(transport.CodeDevice, err)
		}
		return nil
	})
}

func (f *fleet) resumeAll(last handoff.Entry) (handoff.Holding, error) {
	n := len(f.devices)
	found, committed, missing := make([]note, n), make([]bool, n), make([]error, n)
	err := f.each(n, func(i int) (err error) {
		d := f.devices[i]
		found[i], err = d.resume(f.session)
		committed[i] = errors.Is(err, vfio.ErrCommitted)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errors.ErrUnsupported):
			missing[i] = d.fault(transport.CodeDevice, err)
		case err != nil && !committed[i]:
			return d.fault(transport.CodeDevice, err)
		}
		return nil
	})
	if err == nil && !slices.Contains(missing, nil) {
		return handoff.Nothing, nil
	}
	if err = errors.Join(err, errors.Join(missing...)); err == nil {
		err = verify(found, f.sinks(), last)
	}
	if err == nil && last.Record == handoff.Ready && slices.Contains(committed, true) {
		err = errors.New("what is recorded as READY has its name already")
	}
	if err != nil {
		return handoff.Nothing, err
	}
	f.adopted = true
	for i, d := range f.devices {
		d.ran = committed[i]
	}
	if slices.Contains(committed, false) {
		return handoff.Whole, nil
	}
	return handoff.Executing, nil
}

// resume brings a device to STOP with the copy that it holds.
func (d *device) resume(session string) (note, error) {
	b, err := d.Device.(vfio.Resumable).Resume(session)
	if err != nil && !errors.Is(err, vfio.ErrCommitted) {
		return note{}, err
	}
	d.touched = d.touched || err == nil
	n, broken := parseNote(b)
	return n, cmp.Or(broken, err)
}

// epochOf is the attempt that a record is about: FORCED names the one after it.
func epochOf(last handoff.Entry) uint64 {
	if last.Record == handoff.Forced {
		return last.Attempt.Epoch - 1
	}
	return last.Attempt.Epoch
}

// verify compares the notes of the devices with each other and with the journal: what they
// hold must be one set, and have the digest that READY was sent with.
func verify(found []note, sinks []Sink, last handoff.Entry) error {
	sums, seen := make([]migration.StreamDigest, len(found)), make([]bool, len(found))
	for i, n := range found {
		at := int(n.Device)
		switch {
		case n.Mig != last.Attempt.Mig || n.Epoch != epochOf(last) || n.Destination != last.Journal:
			return fmt.Errorf("what device %s holds is of attempt %d", sinks[i].Name, n.Epoch)
		case int(n.Devices) != len(found) || at >= len(found) || seen[at]:
			return fmt.Errorf("what device %s holds is of another set", sinks[i].Name)
		case n.name() != sinks[i].Name:
			return fmt.Errorf("what device %s holds is of a device %q", sinks[i].Name, n.name())
		}
		sums[at], seen[at] = n.Digest, true
	}
	if got := wire.SetDigest(sums); got != last.Digest {
		return fmt.Errorf("%w: the digest of what the devices hold is %v, and %v is recorded", transport.ErrCorrupt, got, last.Digest)
	}
	return nil
}

// noteVersion is the layout of a note.
const noteVersion = 1

// note is what a device holds beside a complete copy (vfio.Persistent): whose copy it is, and
// its digest. A process after this one resumes the copy by it. It is written in big-endian
// order.
type note struct {
	Version     uint8
	Device      uint16 // of so many Devices, in HELLO's order
	Devices     uint16
	Epoch       uint64
	Mig         migration.ID
	Destination migration.JournalID
	Name        [wire.MaxName]byte
	Digest      migration.StreamDigest
}

var noteLen = binary.Size(note{})

// newNote is that of a device of an attempt, without the digest.
func newNote(h *wire.Hello, device int, journal migration.JournalID) *note {
	n := &note{Version: noteVersion, Device: uint16(device), Devices: uint16(len(h.Devices)), Epoch: h.Epoch, Mig: h.Mig, Destination: journal}
	copy(n.Name[:], h.Devices[device].Name)
	return n
}

// encode fits vfio.MaxNote.
func (n *note) encode() ([]byte, error) { return binary.Append(nil, binary.BigEndian, n) }

// parseNote reads all of b.
func parseNote(b []byte) (n note, err error) {
	if len(b) != noteLen || b[0] != noteVersion {
		return n, fmt.Errorf("%w: a note of %d bytes that this release did not write", transport.ErrCorrupt, len(b))
	}
	_, err = binary.Decode(b, binary.BigEndian, &n)
	return n, err
}

// name is the device's.
func (n *note) name() string { return string(bytes.TrimRight(n.Name[:], "\x00")) }
