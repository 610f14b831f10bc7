package writer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
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
		if err == nil {
			return s, vfio.CheckSession(s)
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
	}
	return vfio.Enter(d, vfio.Resuming, true)
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
		f.touched[i] = true
		if err := vfio.CheckSession(s); err != nil {
			return note{}, err
		}
		f.streams[i] = s
	}
	n, broken := parseNote(b)
	if broken == nil && n.digest.Bytes() != offset {
		broken = fmt.Errorf("%w: a note of %d bytes is with %d", transport.ErrCorrupt, n.digest.Bytes(), offset)
	}
	return n, cmp.Or(broken, err)
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
func (e *engine) takeUp(m *transport.Resume, lane transport.Lane) {
	if e.engaged() || !e.fleet.resumable() {
		return
	}
	j, err := e.opts.Journals(m.Mig, true)
	if err != nil {
		return // whoever answers will find out
	}
	if last := j.Last(); asks(j, m, lane) == nil && m.Epoch == last.Attempt.Epoch {
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
