package handoff

import (
	"errors"
	"fmt"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Why an attempt may not be opened.
var (
	// ErrInDoubt is the error for a source that has recorded COMMIT, and has no answer.
	ErrInDoubt = errors.New("an earlier attempt of this migration is in doubt: ask the destination before anything is started")
	// ErrGone is the error for devices that run at the destination.
	ErrGone = errors.New("the devices of this migration run at its destination")
	// ErrHere is the error for devices that run, or may run, at this destination already.
	ErrHere = errors.New("the devices of this migration were accepted here before")
	// ErrOldEpoch is the error for an attempt that is not newer than the last one.
	ErrOldEpoch = errors.New("a newer attempt of this migration has been opened")
	// ErrOtherJournal is the error for a journal of another migration, or of the other side.
	ErrOtherJournal = errors.New("the journal is of another migration, or of its other side")
	// ErrOtherPeer is the error for an earlier attempt of another peer.
	ErrOtherPeer = errors.New("an earlier attempt of this migration came from another peer")
)

// MayOpen is the gate of the source, which every attempt passes. The error is nil if a source
// whose newest entry is last owns its devices, and may open the attempt. The zero Entry is that
// of an empty journal.
func MayOpen(last Entry, attempt migration.Attempt) error {
	switch last.Record {
	case Commit:
		return fmt.Errorf("%w (attempt %d)", ErrInDoubt, last.Attempt.Epoch)
	case Done:
		return fmt.Errorf("%w (attempt %d)", ErrGone, last.Attempt.Epoch)
	case Owner, Open, ResumeFailed, Forced:
		return checkEpoch(last, attempt)
	}
	return requireEmpty(last)
}

// MayTake is the gate of the destination. The error is nil if a destination whose newest entry is
// last may load its devices for the attempt of a peer. The copy of an older attempt does not
// hinder: its source has recorded OWNER before it tried again.
func MayTake(last Entry, attempt migration.Attempt, peer transport.PeerID) error {
	switch last.Record {
	case Accept, Running, Done, Lost, Forced:
		return fmt.Errorf("%w (attempt %d)", ErrHere, last.Attempt.Epoch)
	case Open, Ready, Aborted:
		if last.PeerID != peer {
			return ErrOtherPeer
		}
		return checkEpoch(last, attempt)
	case None:
		if last.Attempt.Mig == attempt.Mig {
			return nil
		}
	}
	return requireEmpty(last)
}

// BothMayRun reports whether both sides of a migration may run: the destination has recorded that
// it accepted the devices, and the source is at a later attempt. Then a person has decided so at
// the source (FORCED), or the journal of the source was lost.
func BothMayRun(sourceEpoch uint64, dest Record, destEpoch uint64) bool {
	switch dest {
	case Accept, Running, Done:
		return sourceEpoch > destEpoch
	case Forced: // its epoch is one above that of the attempt in doubt
		return sourceEpoch >= destEpoch
	}
	return false
}

func requireEmpty(last Entry) error {
	if last != (Entry{}) {
		return fmt.Errorf("%w: it says %v", ErrOtherJournal, last.Record)
	}
	return nil
}

func checkEpoch(last Entry, attempt migration.Attempt) error {
	switch {
	case last.Attempt.Mig != attempt.Mig:
		return fmt.Errorf("%w: it is of %v", ErrOtherJournal, last.Attempt.Mig)
	case attempt.Epoch <= last.Attempt.Epoch:
		return fmt.Errorf("%w: attempt %d, this is %d", ErrOldEpoch, last.Attempt.Epoch, attempt.Epoch)
	}
	return nil
}
