package migrate

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/writer"
)

// TestAnswerFromTheJournal: a source asks for an attempt that the destination knows only
// from its journal. The destination answers with the journal's record, and first records
// what can no longer happen. The source for which it waits itself is served after that.
func TestAnswerFromTheJournal(t *testing.T) {
	for _, c := range []struct {
		record  handoff.Record
		epoch   uint64 // of the record; the source asks for attempt 2
		said    string // the answers to RESUME and, if there is another, to COMMIT
		becomes string // the journal at the end
	}{
		{handoff.Open, 2, "DECLINED", "OPEN ABORTED"},
		{handoff.Ready, 2, "STATUS READY", "READY"}, // the answering code does not know the devices
		{handoff.Accept, 2, "STATUS ACCEPT", "ACCEPT"},
		{handoff.Ready, 3, "DECLINED", "READY"},
		{handoff.Running, 2, "RUNNING", "RUNNING DONE"},
		{handoff.Done, 2, "RUNNING", "DONE"},
		{handoff.Aborted, 2, "DECLINED", "ABORTED"},
		{handoff.Lost, 2, "STATUS LOST", "LOST"},
		{handoff.Forced, 3, "STATUS FORCED", "FORCED"},
		{handoff.Open, 3, "DECLINED", "OPEN ABORTED"},
		{handoff.Aborted, 3, "DECLINED", "ABORTED"},
		{handoff.Open, 1, "", "OPEN"}, // there never was such an attempt
	} {
		t.Run(fmt.Sprintf("%v of attempt %d", c.record, c.epoch), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mig := migration.NewID()
				j := handoff.NewMemory()
				j.Append(handoff.Entry{Record: c.record, Attempt: migration.Attempt{Mig: mig, Epoch: c.epoch}, Journal: j.ID(), Why: handoff.Why{Text: "burned down"}})
				p, done := askedDestination(t, mig, j)
				attempt := migration.Attempt{Mig: mig, Epoch: 2}
				control := p.ask(t, &wire.Resume{Attempt: attempt, Peer: j.ID()})
				if got := answers(control, j.ID()); !strings.Contains(got, c.said) || c.said == "" && got != "" {
					t.Errorf("RESUME is answered by %q", got)
				}
				control.Send(&wire.Commit{Attempt: attempt, Journal: j.ID()})
				hungUp := c.record == handoff.Ready || c.record == handoff.Accept
				if got := answers(control, j.ID()); !hungUp && !strings.Contains(got, c.said) {
					t.Errorf("COMMIT is answered by %q", got)
				}
				control.Send(&wire.Fin{Attempt: attempt})
				time.Sleep(time.Second)
				control.Lane().Close()
				if got := written(j); got != c.becomes {
					t.Errorf("the journal has %s, want %s", got, c.becomes)
				}
				p.succeedsNow(t, done)
			})
		})
	}
}

// TestAnswerNotBelieved: a source asks for an attempt of another journal, or for an unknown
// one. The destination declines without a journal's name, so a source in doubt does not
// believe it.
func TestAnswerNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mig := migration.NewID()
		j := handoff.NewMemory()
		j.Append(handoff.Entry{Record: handoff.Open, Attempt: migration.Attempt{Mig: mig, Epoch: 1}, Journal: j.ID()})
		p, done := askedDestination(t, mig, j)
		for _, m := range []*wire.Resume{
			{Attempt: migration.Attempt{Mig: mig, Epoch: 1}, Peer: migration.NewJournalID()},
			{Attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}, Peer: j.ID()},
		} {
			control := p.ask(t, m)
			if got := answers(control, migration.JournalID{}); got != "DECLINED" {
				t.Errorf("RESUME %+v is answered by %q", m, got)
			}
			control.Lane().Close()
			time.Sleep(time.Second) // the destination answers one source at a time
		}
		if got := written(j); got != "OPEN" {
			t.Errorf("the journal has %s", got)
		}
		p.succeedsNow(t, done)
	})
}

// TestAnswerSaysWhy: a source that has not received why its attempt ended gets the reason
// when it asks again.
func TestAnswerSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mig := migration.NewID()
		attempt := migration.Attempt{Mig: mig, Epoch: 1}
		j := handoff.NewMemory()
		j.Append(handoff.Entry{Record: handoff.Aborted, Attempt: attempt, Journal: j.ID(), Why: handoff.Why{Code: transport.CodeDevice, Text: "burned down"}})
		p, done := askedDestination(t, mig, j)
		control := p.ask(t, &wire.Resume{Attempt: attempt, Peer: j.ID()})
		for {
			m, err := control.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := m.(*wire.Declined); ok {
				if d.Code != transport.CodeDevice || d.Text != "burned down" {
					t.Errorf("declined with %v %q", d.Code, d.Text)
				}
				break
			}
		}
		control.Lane().Close()
		time.Sleep(time.Second)
		p.succeedsNow(t, done)
	})
}

// asked is a destination that waits for a source of its own.
type asked struct {
	*pair
	dialer transport.Dialer
}

func askedDestination(t *testing.T, mig migration.ID, j *handoff.Memory) (asked, chan side) {
	p := barePair(t, pipe)
	p.add(t, "d0", nic, nic)
	p.receive.Journals = func(m migration.ID, existing bool) (handoff.Journal, error) {
		switch {
		case m == mig:
			return j, nil
		case existing:
			return nil, fs.ErrNotExist
		}
		return handoff.NewMemory(), nil
	}
	d, l := pipe(t)
	done := make(chan side, 1)
	go func() {
		r, err := writer.Receive(p.receiveCtx, l, p.sinks, &p.receive)
		done <- side{r, err}
	}()
	return asked{p, d}, done
}

func (a asked) ask(t *testing.T, m *wire.Resume) *wire.Control {
	t.Helper()
	lane, err := a.dialer.Dial(t.Context())
	if err == nil {
		err = wire.WritePreamble(lane, wire.Preamble{Kind: wire.LaneControl, Mig: m.Mig, Epoch: m.Epoch})
	}
	if err != nil {
		t.Fatal(err)
	}
	control := wire.NewControl(lane)
	control.Send(m)
	return control
}

// answers are the answers of one second, in the name of a journal.
func answers(control *wire.Control, journal migration.JournalID) string {
	control.Lane().SetDeadline(time.Now().Add(time.Second))
	defer control.Lane().SetDeadline(time.Time{})
	var said []string
	for {
		m, err := control.Receive()
		if err != nil {
			return strings.Join(said, " ")
		}
		name, from := m.Type().String(), migration.JournalID{}
		switch m := m.(type) {
		case *wire.Declined:
			from = m.Journal
		case *wire.Running:
			from = m.Journal
		case *wire.Status:
			name, from = name+" "+m.Record, m.Journal
		}
		if from == journal {
			said = append(said, name)
		}
		if from == journal && name != "STATUS OPEN" && name != "STATUS RUNNING" && name != "STATUS ABORTED" && name != "STATUS DONE" {
			return strings.Join(said, " ")
		}
	}
}

func written(j *handoff.Memory) string {
	var names []string
	for _, e := range j.Entries() {
		names = append(names, e.Record.String())
	}
	return strings.Join(names, " ")
}

// succeedsNow migrates to the destination that has answered.
func (a asked) succeedsNow(t *testing.T, done chan side) {
	t.Helper()
	r, err := a.sendTo(a.dialer)
	a.committed(t, side{r, err}, <-done)
}

// TestNextAttemptWhileAnswered: a source opens the next attempt while the destination still
// has the journal open to answer it about the previous one. The destination serves it when
// that conversation ends.
func TestNextAttemptWhileAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mig := migration.NewID()
		j := handoff.NewMemory()
		j.Append(handoff.Entry{Record: handoff.Aborted, Attempt: migration.Attempt{Mig: mig, Epoch: 1}, Journal: j.ID()})
		p, done := askedDestination(t, mig, j)
		control := p.ask(t, &wire.Resume{Attempt: migration.Attempt{Mig: mig, Epoch: 1}, Peer: j.ID()})
		if got := answers(control, j.ID()); !strings.HasSuffix(got, "DECLINED") {
			t.Fatalf("RESUME is answered by %q", got)
		}
		go func() { // ends with the lane
			time.Sleep(time.Second)
			if got := written(j); got != "ABORTED" {
				t.Errorf("while the destination answers, its journal has %s", got)
			}
			control.Lane().Close()
		}()
		p.send.Attempt = migration.Attempt{Mig: mig, Epoch: 2}
		p.succeedsNow(t, done)
	})
}
