package writer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
)

// keeping says how sessions are kept through a crash of this process.
type keeping struct {
	id    string   // of the sessions
	notes [][]byte // by sink
}

// sessionID is what a migration's sessions are kept under.
func sessionID(mig transport.MigID) string { return mig.String() }

// keeps says how the sessions of an attempt are kept; nil where a later process could
// not go on with all of them, or would not know that it may. Within one host it has no
// use: the source does not come back.
func (e *engine) keeps() (*keeping, error) {
	_, lasts := e.journal.(handoff.Lasting)
	if !lasts || e.local || !e.fleet.resumable() {
		return nil, nil
	}
	k := &keeping{id: sessionID(e.offer.Mig), notes: make([][]byte, len(e.fleet.sinks))}
	for i, n := range notes(e.offer, e.terms, e.journal.ID()) {
		b, err := n.encode()
		if err != nil {
			return nil, err
		}
		k.notes[e.terms.order[i]] = b
	}
	return k, nil
}

// resumable reports whether every device may keep what it is given. A mixture cannot
// go on.
func (f *fleet) resumable() bool {
	return !slices.ContainsFunc(f.sinks, func(s Sink) bool {
		_, ok := s.Device.(vfio.Resumable)
		return !ok
	})
}

// keep starts a device's session, one that is kept if that can be. What an attempt
// before this one has left is gone in any case.
func (f *fleet) keep(i int) (vfio.Stream, error) {
	d := f.sinks[i].Device
	r, ok := d.(vfio.Resumable)
	if ok && f.keeping != nil {
		s, err := r.Keep(f.keeping.id, f.keeping.notes[i])
		if !errors.Is(err, errors.ErrUnsupported) {
			return s, err
		}
	}
	return d.SetState(vfio.Resuming)
}

// durables are the sessions, if all of them are kept.
func (f *fleet) durables() []vfio.Durable {
	all := make([]vfio.Durable, len(f.streams))
	for i, s := range f.streams {
		d, ok := s.(vfio.Durable)
		if !ok {
			return nil
		}
		all[i] = d
	}
	return all
}

// forget removes what a process before this one has left of sessions that nobody will
// go on with.
func (f *fleet) forget(mig transport.MigID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.each(len(f.sinks), func(i int) error {
		r, ok := f.sinks[i].Device.(vfio.Resumable)
		if !ok {
			return nil
		}
		if err := r.Forget(sessionID(mig)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
}

// resume opens what a process before this one has left of every session, and gives
// their notes by HELLO's order, with the sinks that they are of. If not all of them are
// there, and of this attempt, all that were opened are reset, and so gone.
func (f *fleet) resume(last handoff.Entry) (all []note, order []int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := make([]note, len(f.sinks))
	err = f.each(len(f.sinks), func(i int) (err error) {
		if found[i], err = f.reopen(i); err != nil {
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
	if err == nil {
		all, order, err = sorted(found, f.sinks, last)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.resetTouched())
	}
	return all, order, nil
}

func (f *fleet) reopen(i int) (note, error) {
	s, offset, b, err := f.sinks[i].Device.(vfio.Resumable).Resume(f.id)
	committed := errors.Is(err, vfio.ErrCommitted)
	if err != nil && !committed {
		return note{}, err
	}
	if !committed {
		f.touched[i], f.streams[i] = true, s
	}
	n, broken := parseNote(b)
	if broken == nil && n.digest.Bytes() != offset {
		broken = fmt.Errorf("%w: a note of %d bytes is with %d", transport.ErrCorrupt, n.digest.Bytes(), offset)
	}
	return n, cmp.Or(broken, err)
}

// regain takes what every device has kept of a complete copy, and says what that is:
// what was verified, by the digest beside it, and all of it. Where that is not so nobody
// knows why, and it may be the last copy: it is left to a later process.
func (f *fleet) regain(last handoff.Entry) (handoff.Holding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	holding, err := f.regainAll(last)
	if err != nil {
		err = errors.Join(err, f.leave())
	}
	return holding, err
}

// leave gives up what was taken, to a later process.
func (f *fleet) leave() error {
	return f.each(len(f.sinks), func(i int) error {
		if !f.touched[i] {
			return nil
		}
		f.touched[i], f.streams[i] = false, nil // which Leave has ended
		if err := f.sinks[i].Device.(vfio.Resumable).Leave(); err != nil {
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
}

func (f *fleet) regainAll(last handoff.Entry) (handoff.Holding, error) {
	found, committed, missing := make([]note, len(f.sinks)), make([]bool, len(f.sinks)), make([]error, len(f.sinks))
	err := f.each(len(f.sinks), func(i int) (err error) {
		found[i], err = f.reopen(i)
		committed[i] = errors.Is(err, vfio.ErrCommitted)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errors.ErrUnsupported):
			missing[i] = f.fault(i, transport.CodeDevice, err)
		case err != nil && !committed[i]:
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
	if err == nil && !slices.Contains(missing, nil) {
		return handoff.Nothing, nil
	}
	if err = errors.Join(err, errors.Join(missing...)); err == nil {
		err = verified(found, f.sinks, last)
	}
	if err == nil && last.Record == handoff.Ready && slices.Contains(committed, true) {
		err = errors.New("what is recorded as READY has its name already")
	}
	if err == nil {
		err = f.stand(committed)
	}
	if err != nil {
		return handoff.Nothing, err
	}
	f.adopted, f.ran = true, committed
	if slices.Contains(committed, false) {
		return handoff.Whole, nil
	}
	return handoff.Executing, nil
}

// stand brings the devices whose session is complete, and not committed, to STOP.
func (f *fleet) stand(committed []bool) error {
	return f.each(len(f.sinks), func(i int) error {
		if committed[i] {
			return nil
		}
		if _, err := f.sinks[i].Device.SetState(vfio.Stop); err != nil {
			return f.fault(i, transport.CodeValidation, err)
		}
		return nil
	})
}

// verified holds the notes against the digest that READY was said of.
func verified(found []note, sinks []Sink, last handoff.Entry) error {
	all, _, err := sorted(found, sinks, last)
	if err != nil {
		return err
	}
	sums := make([]transport.StreamDigest, len(all))
	for i, n := range all {
		sums[i] = n.digest.Sum()
	}
	if got := transport.SetDigest(sums); got != last.Digest {
		return fmt.Errorf("%w: the digest of what the devices hold is %v, and %v is recorded", transport.ErrCorrupt, got, last.Digest)
	}
	return nil
}

// epochOf is the attempt that a record is about: FORCED names the one after it.
func epochOf(last handoff.Entry) uint64 {
	if last.Record == handoff.Forced {
		return last.Attempt.Epoch - 1
	}
	return last.Attempt.Epoch
}

// sorted holds the notes of sinks against each other and against the journal.
func sorted(found []note, sinks []Sink, last handoff.Entry) (all []note, order []int, err error) {
	all, order = make([]note, len(found)), make([]int, len(found))
	seen := make([]bool, len(found))
	for i, n := range found {
		at := int(n.Device)
		same := n.noteHead // but for what each device has of its own
		same.Device, same.Priority, same.Name = found[0].Device, found[0].Priority, found[0].Name
		switch {
		case n.Mig != last.Attempt.Mig || n.Epoch != epochOf(last) || n.Destination != last.Journal:
			err = fmt.Errorf("what device %s holds is of attempt %d", sinks[i].Name, n.Epoch)
		case same != found[0].noteHead || int(n.Devices) != len(found) || at >= len(found) || seen[at]:
			err = fmt.Errorf("what device %s holds is of another set", sinks[i].Name)
		case n.name() != sinks[i].Name:
			err = fmt.Errorf("what device %s holds is of a device %q", sinks[i].Name, n.name())
		}
		if err != nil {
			return nil, nil, err
		}
		all[at], order[at], seen[at] = n, i, true
	}
	return all, order, nil
}

// takeUp goes on with the attempt of a source that says RESUME, if a process before
// this one has left it open and the devices have kept what that had written. If not,
// the source is answered from the journal. The files are opened in the loop: nothing
// else goes on yet.
func (e *engine) takeUp(m *transport.Resume, peer transport.ID) {
	if e.engaged() || !e.fleet.resumable() {
		return
	}
	j, err := e.opts.Journals(m.Mig, true)
	if err != nil {
		return // whoever answers will find out
	}
	if last := j.Last(); asks(j, m, peer) == nil && m.Epoch == last.Attempt.Epoch {
		on, err := e.goOn(j)
		if on {
			return
		}
		if err != nil && e.complained != last.Attempt { // the source is told what is recorded
			e.complained = last.Attempt
			e.tell(report.Event{Kind: report.Warning, Text: cannotGoOn(last, err).Error()})
		}
	}
	if c, ok := j.(io.Closer); ok {
		c.Close()
	}
}

// goOn goes on with what a journal says, and devices have kept, of an attempt, and
// reports whether it can. The journal is the engine's then. An error says that they have
// something complete that could not be gone on with.
func (e *engine) goOn(j handoff.Journal) (bool, error) {
	last := j.Last()
	if _, lasts := j.(handoff.Lasting); !lasts || !e.fleet.resumable() {
		return false, nil
	}
	e.fleet.id = sessionID(last.Attempt.Mig)
	switch last.Record {
	case handoff.Open:
		return e.goOnLoading(j), nil
	case handoff.Ready, handoff.Accept, handoff.Forced:
		return e.goOnComplete(j)
	}
	return false, nil
}

// forgetWord has the devices forget of which migration they hold the state, when the
// source has heard that they run: nobody will ask any more.
func (e *engine) forgetWord() {
	if e.owner.Record != handoff.Done {
		return
	}
	if err := e.fleet.forget(e.owner.Attempt.Mig); err != nil {
		e.out.Warnings = append(e.out.Warnings, fmt.Sprintf("forget the session: %v", err))
	}
}

// goOnComplete goes on with a complete copy. Where that cannot be, it is left as it is,
// for people to look at.
func (e *engine) goOnComplete(j handoff.Journal) (bool, error) {
	holding, err := e.fleet.regain(j.Last())
	if err != nil || holding == handoff.Nothing {
		return false, err
	}
	e.goOnAs(j, holding)
	return true, nil
}

func (e *engine) goOnLoading(j handoff.Journal) bool {
	last := j.Last()
	all, order, err := e.fleet.resume(last)
	if err == nil {
		err = e.goOnWith(j, all, order)
	}
	if err != nil {
		e.fleet.closeStreams()
		e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("migration %v, attempt %d, cannot go on where a process before this one has left it: %v", last.Attempt.Mig, last.Attempt.Epoch, err)})
		return false
	}
	return true
}

func (e *engine) goOnWith(j handoff.Journal, all []note, order []int) error {
	first, last := all[0], j.Last()
	e.journal, e.offer, e.again = j, offer(all), true
	e.terms = terms{version: transport.Version, chunkSize: int(first.ChunkSize), lanes: int(first.Lanes), order: order, splice: make([]bool, len(all))}
	err := e.terms.fits(e.opts.Memory, len(all))
	if err == nil {
		err = e.begin(all)
	}
	if err != nil {
		e.journal, e.offer, e.terms, e.again = nil, nil, terms{}, false
		return errors.Join(err, e.fleet.reset())
	}
	e.out.Attempt, e.out.Peer, e.lostAt, e.unheard = last.Attempt, last.PeerID, time.Now(), true
	var kept uint64
	for _, n := range all {
		kept += n.digest.Bytes()
	}
	e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("going on with migration %v, attempt %d: %d bytes are here", last.Attempt.Mig, last.Attempt.Epoch, kept)})
	next, actions := handoff.RestartDest(last, handoff.Partial)
	e.owner = next
	e.do(actions)
	return nil
}

// spareOthers refuses a migration while a device keeps a complete copy of another one,
// which may be the only one, and which nobody has decided about; or one of which that
// cannot be found out now.
func (e *engine) spareOthers(mig transport.MigID) *transport.Fault {
	for i, s := range e.fleet.sinks {
		ids, err := e.fleet.left(i)
		for _, id := range ids {
			other, bad := transport.ParseMigID(id)
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
			return &transport.Fault{Code: transport.CodeBusy, Device: s.Name, Err: err}
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
func (e *engine) recordOf(mig transport.MigID) (handoff.Entry, error) {
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

// left gives the ids of what a device keeps.
func (f *fleet) left(i int) (ids []string, err error) {
	r, ok := f.sinks[i].Device.(vfio.Resumable)
	if !ok {
		return nil, nil
	}
	list, err := r.Left()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	return ids, err
}
