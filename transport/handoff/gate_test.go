package handoff

import (
	"errors"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestBothMayRun: only a source at a later attempt than the one that was accepted was
// FORCED; and what was lost does not run.
func TestBothMayRun(t *testing.T) {
	for r := None; r <= Running; r++ {
		ran := r == Accept || r == Running || r == Done
		want := [3]bool{false, r == Forced, ran || r == Forced} // by the source's epoch
		for i := range want {
			if got := BothMayRun(uint64(i+1), r, 2); got != want[i] {
				t.Errorf("the source is at %d, the destination's record is %v of 2: %v", i+1, r, got)
			}
		}
	}
}

// TestGates: with every record of either side, and of another migration, an
// attempt that is newer or not.
func TestGates(t *testing.T) {
	other := migration.ID{9}
	peer, stranger := transport.PeerID{1}, transport.PeerID{2}
	for _, c := range []struct {
		record      Record
		mig         migration.ID
		epoch       uint64 // of the attempt; the journal's last is 2
		peer        transport.PeerID
		open, takes error
	}{
		{None, worldMig, 3, peer, ErrOtherJournal, nil},
		{None, other, 3, peer, ErrOtherJournal, ErrOtherJournal},
		{Owner, worldMig, 3, peer, nil, ErrOtherJournal},
		{Owner, worldMig, 2, peer, ErrOldEpoch, ErrOtherJournal},
		{Owner, other, 3, peer, ErrOtherJournal, ErrOtherJournal},
		{Open, worldMig, 3, peer, nil, nil},
		{Open, worldMig, 2, peer, ErrOldEpoch, ErrOldEpoch},
		{Open, worldMig, 3, stranger, nil, ErrOtherPeer},
		{Ready, worldMig, 3, peer, ErrOtherJournal, nil},
		{Ready, worldMig, 1, peer, ErrOtherJournal, ErrOldEpoch},
		{Ready, worldMig, 3, stranger, ErrOtherJournal, ErrOtherPeer},
		{Commit, worldMig, 3, peer, ErrInDoubt, ErrOtherJournal},
		{Commit, other, 3, peer, ErrInDoubt, ErrOtherJournal},
		{Accept, worldMig, 3, peer, ErrOtherJournal, ErrHere},
		{Running, worldMig, 3, peer, ErrOtherJournal, ErrHere},
		{Aborted, worldMig, 3, peer, ErrOtherJournal, nil},
		{Aborted, worldMig, 2, peer, ErrOtherJournal, ErrOldEpoch},
		{Aborted, other, 3, peer, ErrOtherJournal, ErrOtherJournal},
		{Done, worldMig, 3, peer, ErrGone, ErrHere},
		{Lost, worldMig, 3, peer, ErrOtherJournal, ErrHere},
		{Forced, worldMig, 3, peer, nil, ErrHere},
		{Forced, worldMig, 2, peer, ErrOldEpoch, ErrHere},
		{Forced, other, 3, peer, ErrOtherJournal, ErrHere},
	} {
		last := Entry{Record: c.record, Attempt: migration.Attempt{Mig: c.mig, Epoch: 2}, Journal: sourceJournal, PeerID: peer}
		a := migration.Attempt{Mig: worldMig, Epoch: c.epoch}
		if err := MayOpen(last, a); !errors.Is(err, c.open) || (err == nil) != (c.open == nil) {
			t.Errorf("%v of %v, attempt %d: may open: %v, want %v", c.record, c.mig, c.epoch, err, c.open)
		}
		if err := MayTake(last, a, c.peer); !errors.Is(err, c.takes) || (err == nil) != (c.takes == nil) {
			t.Errorf("%v of %v, attempt %d: may take: %v, want %v", c.record, c.mig, c.epoch, err, c.takes)
		}
	}
	if a := (migration.Attempt{Mig: worldMig, Epoch: 1}); MayOpen(Entry{}, a) != nil || MayTake(Entry{}, a, peer) != nil {
		t.Error("a journal in which nothing was written shuts the gate")
	}
}

// TestForce: a person may decide in doubt, and at no other time. The decision is of a newer
// attempt than all that the other side can still speak of.
func TestForce(t *testing.T) {
	for r := None; r <= Running; r++ {
		last := Entry{Record: r, Attempt: attempt(4), Journal: sourceJournal, PeerJournal: destJournal, Witness: worldWitness, Why: Why{Bytes: 96, Code: transport.CodeTimeout, Text: "silence"}}
		got, ok := Force(last, "root: burned down")
		if want := r == Commit || r == Ready || r == Accept || r == Lost; ok != want {
			t.Errorf("from %v: %v, want %v", r, ok, want)
		}
		if !ok {
			continue
		}
		last.Record, last.Attempt.Epoch, last.Why = Forced, 5, Why{Bytes: 96, Text: "root: burned down"}
		if got != last {
			t.Errorf("from %v: %+v, want %+v", r, got, last)
		}
	}
}

// TestGiveUp: what may be the last copy, or was accepted, is given up by a person only,
// and the source of every attempt so far hears DECLINED.
func TestGiveUp(t *testing.T) {
	for r := None; r <= Running; r++ {
		last := Entry{Record: r, Attempt: attempt(4), Journal: destJournal, PeerJournal: sourceJournal, Why: Why{Bytes: 96, Text: "silence"}}
		got, ok := GiveUp(last, "root: it runs there")
		if want := r == Ready || r == Accept || r == Lost || r == Forced; ok != want {
			t.Errorf("from %v: %v, want %v", r, ok, want)
		}
		if !ok {
			continue
		}
		if got.Record != Aborted || got.Attempt != last.Attempt || got.Why.Text != "root: it runs there" {
			t.Errorf("from %v: %+v", r, got)
		}
		for epoch := uint64(3); epoch <= 4; epoch++ {
			d, _ := RestartDest(got, Nothing)
			_, actions := d.Step(Received{&wire.Cancel{Attempt: attempt(epoch)}})
			send, _ := actions[0].(Send)
			if m, ok := send.Message.(*wire.Declined); !ok || m.Epoch != epoch || m.Journal != destJournal {
				t.Errorf("from %v: a source of attempt %d is told %+v", r, epoch, actions)
			}
		}
	}
}

func TestRegisterOf(t *testing.T) {
	a, b := RegisterOf("dir:a"), RegisterOf("dir:b")
	if a == 0 || b == 0 || a == b || RegisterOf("") != 0 || a != RegisterOf("dir:a") {
		t.Errorf("%v, %v, %v", a, b, RegisterOf(""))
	}
}
