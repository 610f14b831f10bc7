package migrate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// durable gives both sides journals in files.
func (p *pair) durable(t *testing.T, dir string, a migration.Attempt) {
	t.Helper()
	j, err := journal.Open(dir, journal.Options{Role: journal.Source, Mig: a.Mig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	p.send.Attempt, p.send.Journal = a, j
	p.receive.Journals = func(mig migration.ID, _ bool) (handoff.Journal, error) {
		return journal.Open(dir, journal.Options{Role: journal.Destination, Mig: mig})
	}
}

// recorded reads the records of a directory's journals.
func recorded(t *testing.T, dir string, mig migration.ID, role journal.Role) (names []string, all []journal.Record) {
	t.Helper()
	all, err := journal.Read(filepath.Join(dir, journal.Name(role, mig)))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		names = append(names, r.Record.String())
	}
	return names, all
}

// TestDurable: the files hold the decisions of both sides, and no later attempt can pass
// them by.
func TestDurable(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c carrier) {
		dir := t.TempDir()
		a := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
		p := newPair(t, c)
		p.add(t, "d0", nic, nic)
		p.durable(t, dir, a)
		s, _ := p.succeed(t)
		src, all := recorded(t, dir, a.Mig, journal.Source)
		if want := []string{"OWNER", "OPEN", "COMMIT", "DONE"}; !slices.Equal(src, want) {
			t.Errorf("the source recorded %v", src)
		}
		last := all[len(all)-1]
		dst, all := recorded(t, dir, a.Mig, journal.Destination)
		if want := []string{"NONE", "OPEN", "READY", "ACCEPT", "RUNNING", "DONE"}; !slices.Equal(dst, want) {
			t.Errorf("the destination recorded %v", dst)
		}
		here := all[len(all)-1]
		if last.Digest != here.Digest || last.PeerJournal != here.Journal || last.Why.Bytes != s.report.Devices[0].Bytes || last.PeerID != s.report.Peer {
			t.Errorf("the source's last record is %+v, the destination's %+v", last, here)
		}

		p.send.Journal.(*journal.Journal).Close()
		a.Epoch++
		p = newPair(t, c)
		p.add(t, "d0", nic, nic)
		p.durable(t, dir, a)
		p.sources[0].Device.SetState(vfio.Stop) // as it was left
		if r, err := p.sendTo(nil); err != nil || r.Outcome != migration.Committed || !strings.Contains(fmt.Sprint(r.Warnings), "nothing was sent") {
			t.Errorf("sent again: %v, %v, %v", r.Outcome, err, r.Warnings)
		}
	})
}

// TestDurableAttempts: after a failed attempt the next one has a greater epoch. The
// destination refuses an attempt that is not newer before it touches a device.
func TestDurableAttempts(t *testing.T) {
	dir := t.TempDir()
	a := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	try := func(a migration.Attempt, sink string) (s, r side) {
		p := newPair(t, pipe)
		p.add(t, "d0", nic, sink)
		p.durable(t, dir, a)
		s, r = p.run(t)
		p.send.Journal.(*journal.Journal).Close()
		return s, r
	}
	if s, _ := try(a, nic+"&fault=write@1MiB"); s.report.Outcome != migration.Aborted {
		t.Fatalf("%v: %v", s.report.Outcome, s.err)
	}
	if src, _ := recorded(t, dir, a.Mig, journal.Source); strings.Join(src, " ") != "OWNER OPEN OWNER" {
		t.Errorf("the source recorded %v", src)
	}
	dst, all := recorded(t, dir, a.Mig, journal.Destination)
	if why := all[len(all)-1].Why; strings.Join(dst, " ") != "NONE OPEN ABORTED" || why.Code != transport.CodeDevice || !strings.Contains(why.Text, "d0") {
		t.Errorf("the destination recorded %v, at last %+v", dst, why)
	}
	p := newPair(t, pipe)
	p.add(t, "d0", nic, nic)
	p.durable(t, dir, a)
	if _, err := p.sendTo(nil); !errors.Is(err, handoff.ErrOldEpoch) {
		t.Errorf("attempt 1 again: %v", err)
	}
	p.send.Journal.(*journal.Journal).Close()
	if err := os.Remove(filepath.Join(dir, journal.Name(journal.Source, a.Mig))); err != nil {
		t.Fatal(err)
	}
	s, r := try(a, nic) // by a source that has lost its journal
	if s.report.Outcome != migration.Aborted || r.report.Outcome != migration.Aborted || !strings.Contains(fmt.Sprint(s.err), handoff.ErrOldEpoch.Error()) {
		t.Errorf("attempt 1 of an amnesiac: %v, %v", s.err, r.err)
	}
	a.Epoch = 2
	s, r = try(a, nic)
	if s.report.Outcome != migration.Committed || r.report.Outcome != migration.Committed {
		t.Errorf("attempt 2: %v, %v", s.err, r.err)
	}
	a.Epoch = 3
	if err := os.Remove(filepath.Join(dir, journal.Name(journal.Source, a.Mig))); err != nil {
		t.Fatal(err)
	}
	if s, _ := try(a, nic); s.report.Outcome != migration.Aborted || !errors.Is(s.err, reader.ErrBothMayRun) {
		t.Errorf("attempt 3, after it was accepted: %v", s.err)
	}
}

// TestDoubtBeforeTheDevices: a source that has recorded COMMIT asks the destination, and
// does nothing to its devices until the destination answers.
func TestDoubtBeforeTheDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		src, _ := p.add(t, "d0", nic, nic)
		src.SetState(vfio.Stop)
		a := migration.Attempt{Mig: migration.NewID(), Epoch: 2}
		j := handoff.NewMemory()
		j.Append(handoff.Entry{Record: handoff.Commit, Attempt: migration.Attempt{Mig: a.Mig, Epoch: 1}, Journal: j.ID()})
		p.send.Attempt, p.send.Journal = a, j
		before := len(src.Log())
		silent, _ := pipe(t)
		if r, err := p.sendTo(silent); r.Outcome != migration.InDoubt || err == nil || r.Attempt.Epoch != 1 {
			t.Errorf("%v of attempt %d, %v", r.Outcome, r.Attempt.Epoch, err)
		}
		if len(j.Entries()) != 1 || len(src.Log()) != before {
			t.Errorf("the journal has %v, the device did %v", j.Entries(), src.Log()[before:])
		}
	})
}

// TestRefusedForAnother: a source that its journal excludes costs the next one nothing.
func TestRefusedForAnother(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "d0", nic, nic)
	old := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	p.receive.Journals = func(mig migration.ID, _ bool) (handoff.Journal, error) {
		j := handoff.NewMemory()
		if mig == old.Mig {
			j.Append(handoff.Entry{Record: handoff.Accept, Attempt: old, Journal: j.ID()})
		}
		return j, nil
	}
	dialer, listener := pipe(t)
	received := make(chan side)
	go func() {
		r, err := writer.Receive(p.receiveCtx, listener, p.sinks, &p.receive)
		received <- side{r, err}
	}()
	p.send.Attempt = migration.Attempt{Mig: old.Mig, Epoch: 2}
	for range 20 {
		if r, err := p.sendTo(dialer); r.Outcome != migration.Aborted || !errors.Is(err, reader.ErrBothMayRun) {
			t.Fatalf("%v, %v", r.Outcome, err)
		}
	}
	p.send.Attempt = migration.Attempt{}
	s, err := p.sendTo(dialer)
	p.committed(t, side{s, err}, <-received)
}

// TestOpenAttemptResumes: if an attempt ended with its process, the next start returns the
// devices to RUNNING from any state, and the next attempt begins with them.
func TestOpenAttemptResumes(t *testing.T) {
	for _, left := range []vfio.State{vfio.Running, vfio.PreCopy, vfio.PreCopyP2P, vfio.StopCopy, vfio.Stop} {
		p := newPair(t, pipe)
		src, _ := p.add(t, "d0", nic, nic)
		if stream, err := src.SetState(left); err != nil {
			t.Fatal(err)
		} else if stream != nil {
			defer stream.Close()
		}
		a := migration.Attempt{Mig: migration.NewID(), Epoch: 2}
		j := handoff.NewMemory()
		j.Append(handoff.Entry{Record: handoff.Open, Attempt: migration.Attempt{Mig: a.Mig, Epoch: 1}, Journal: j.ID()})
		p.send.Attempt, p.send.Journal = a, j
		p.succeed(t)
		var records []string
		for _, e := range j.Entries() {
			records = append(records, fmt.Sprint(e.Record, e.Attempt.Epoch))
		}
		if got := strings.Join(records, " "); got != "OPEN 1 OWNER 1 OWNER 1 OPEN 2 COMMIT 2 DONE 2" { // before they run, and once they do
			t.Errorf("left in %v: the journal has %s", left, got)
		}
	}
}
