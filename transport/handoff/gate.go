package handoff

import (
	"errors"
	"fmt"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Why a gate is shut.
var (
	// ErrInDoubt says that the source has given up its right to resume, and nobody
	// has heard from the destination whether it runs.
	ErrInDoubt = errors.New("an earlier attempt of this migration is in doubt: ask the destination before anything is started")
	// ErrGone says that the devices run at the destination.
	ErrGone = errors.New("the devices of this migration run at its destination")
	// ErrHere says that the devices run, or may run, at this destination already.
	ErrHere = errors.New("the devices of this migration were accepted here before")
	// ErrOldEpoch says that the attempt is not newer than one that was opened before.
	ErrOldEpoch = errors.New("a newer attempt of this migration has been opened")
	// ErrOtherJournal says that a journal is of another migration, or of the other
	// side of one.
	ErrOtherJournal = errors.New("the journal is of another migration, or of its other side")
	// ErrOtherPeer says that an earlier attempt came from somebody else.
	ErrOtherPeer = errors.New("an earlier attempt of this migration came from another peer")
)

// MayOpen is the source's gate: the error is nil if the side whose journal ends
// with last owns its devices, and attempt is one that it may open. Every attempt
// passes here. The zero Entry is that of a journal in which nothing was written.
func MayOpen(last Entry, attempt migration.Attempt) error {
	switch last.Record {
	case Commit:
		return fmt.Errorf("%w (attempt %d)", ErrInDoubt, last.Attempt.Epoch)
	case Done:
		return fmt.Errorf("%w (attempt %d)", ErrGone, last.Attempt.Epoch)
	case Owner, Open, ResumeFailed, Forced:
		return newer(last, attempt)
	}
	return blank(last)
}

// MayTake is the destination's gate: the error is nil if the side whose journal
// ends with last may open its devices for attempt, which peer makes. A copy that an
// older one has left is no hindrance: its source has gone back to OWNER before it
// tried again.
func MayTake(last Entry, attempt migration.Attempt, peer transport.PeerID) error {
	switch last.Record {
	case Accept, Running, Done, Lost, Forced:
		return fmt.Errorf("%w (attempt %d)", ErrHere, last.Attempt.Epoch)
	case Open, Ready, Aborted:
		if last.PeerID != peer {
			return ErrOtherPeer
		}
		return newer(last, attempt)
	case None:
		if last.Attempt.Mig == attempt.Mig {
			return nil
		}
	}
	return blank(last)
}

// BothMayRun reports whether the two sides of a migration may run at once: the destination's
// record says that it has accepted the devices, and the source is at a later attempt. Only
// a person can have decided that there (FORCED), or the source's journal was lost.
func BothMayRun(sourceEpoch uint64, dest Record, destEpoch uint64) bool {
	switch dest {
	case Accept, Running, Done:
		return sourceEpoch > destEpoch
	case Forced: // of the attempt after the one that the source knows of
		return sourceEpoch >= destEpoch
	}
	return false
}

func blank(last Entry) error {
	if last != (Entry{}) {
		return fmt.Errorf("%w: it says %v", ErrOtherJournal, last.Record)
	}
	return nil
}

func newer(last Entry, attempt migration.Attempt) error {
	switch {
	case last.Attempt.Mig != attempt.Mig:
		return fmt.Errorf("%w: it is of %v", ErrOtherJournal, last.Attempt.Mig)
	case attempt.Epoch <= last.Attempt.Epoch:
		return fmt.Errorf("%w: attempt %d, this is %d", ErrOldEpoch, last.Attempt.Epoch, attempt.Epoch)
	}
	return nil
}
