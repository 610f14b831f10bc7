package writer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// What ends an attempt by taking too long.
var (
	ErrNoWitness    = errors.New("the witness does not answer") // Options.Witness
	ErrStalled      = errors.New("nothing was written")         // Options.StalledAfter
	ErrReadyExpired = errors.New("COMMIT has not come")         // Options.DiscardReadyAfter
)

// ErrLeft says that the user has left a complete copy as READY: its source was away.
var ErrCopyHeld = errors.New("cancelled: the source is away, and its complete copy is left as READY")

// Sink is one device that takes the state of the source's device of the same
// name. The caller opened the device, and closes it after Receive.
type Target struct {
	Name   string
	Device vfio.Device
	// Kept says that somebody else has the device open too, so that what it holds, and
	// its state, outlive this process: only then can they be gone on with by another.
	HeldOpen bool
}

// Options tunes Receive. Nil, or a zero field, means the default.
type Options struct {
	// Memory is the size of the chunk buffers, in bytes: what may be on its way
	// or waiting for a device. Default 32 MiB.
	Memory int
	// ChunkSize is the largest chunk that is accepted, in bytes. Default 1 MiB.
	ChunkSize int
	// MaxState is the most bytes that one device may send. An estimate never
	// bounds a stream; this does. Default 1 TiB.
	MaxState uint64
	// Journals opens the journal that keeps the hand-off's records, when HELLO has
	// told of which migration; it may block for as long as a disk does. Receive
	// closes a journal that is an io.Closer. Default: handoff.InMemory.
	Journals handoff.Journals
	// ReconnectFor is how long a source that was lost may take to come back, before
	// its copy is complete or when the devices run. To a complete copy it may come back
	// for ever. Default 60 s.
	ReconnectFor time.Duration
	// StalledAfter ends an attempt whose devices write nothing for that long although the
	// source has sent everything. Default 30 s: some drivers load for seconds in one
	// write.
	// It also ends an attempt whose source says that bytes are left, and sends none for that long.
	StalledAfter time.Duration
	// WarnReadyAfter is how long a complete copy waits for COMMIT before Observe is told.
	// Default 60 s.
	WarnReadyAfter time.Duration
	// DiscardReadyAfter drops a complete copy for which COMMIT has not come for that long. That
	// never makes two copies, since a source that says COMMIT later is DECLINED, and goes
	// back; but if the source's host has died by then, there is none. Default: a copy is
	// kept for ever.
	DiscardReadyAfter time.Duration
	// Recover names a migration that a process before this one has left here. Receive
	// continues with it if the targets are Kept and hold what its journal says, or if all
	// are vfio.Resumable and hold its complete copy. If not, or if it is zero, Receive
	// starts over, and resets what was loaded in part at once. It continues with a
	// complete copy all the same if the source of that is the first to come.
	Continue migration.ID
	// Leave asks a Receive whose ctx is cancelled to end, and to leave a complete copy as
	// it is recorded. It counts only after Observe was told of migration.Held; the outcome is
	// migration.InDoubt then, and the error is ErrLeft. A channel that is closed asks from
	// then on. Default: the cancelled ctx asks for that too.
	HoldCopy <-chan struct{}
	// Observe is told what happens.
	Observe migration.Observer
	// Software is how this side introduces itself.
	Software string
	// Witness is asked before the devices are accepted; the source must have the same.
	// Default none.
	Witness witness.Witness
	// OnAccept is told that ACCEPT is recorded, before the devices are started: they
	// are this side's. If it fails the start has failed: the copy is kept, and the
	// source may take the devices back. Where the devices run already, which they do
	// after a crash of this side, a failure is a warning.
	OnAccept handoff.Hook
	// StartGuest starts the vCPUs, when ACCEPT is recorded and all devices run. RUNNING
	// is told to the source when it has returned nil, and until then the source keeps
	// its copy. An error says that the guest may have run: the devices are left as they
	// are, the outcome is migration.NeedsReset, and the source stays in doubt, for people
	// to decide. Its ctx does not end before it returns: nothing is cancelled after
	// ACCEPT. Default: there is no guest.
	StartGuest func(context.Context) error
	// StepTimes remembers how long OnAccept and StartGuest took: the source predicts the
	// next downtime by that. Default none: the source predicts "at least".
	StepTimes handoff.StepTimes
}

func (o *Options) withDefaults() (Options, error) {
	v := *cmp.Or(o, new(Options))
	v.Memory = cmp.Or(v.Memory, 32<<20)
	v.ChunkSize = cmp.Or(v.ChunkSize, 1<<20)
	v.MaxState = cmp.Or(v.MaxState, 1<<40)
	v.ReconnectFor = cmp.Or(v.ReconnectFor, 60*time.Second)
	v.StalledAfter = cmp.Or(v.StalledAfter, 30*time.Second)
	v.WarnReadyAfter = cmp.Or(v.WarnReadyAfter, time.Minute)
	if v.Journals == nil {
		v.Journals = handoff.InMemory
	}
	if v.Observe == nil {
		v.Observe = func(migration.Event) {}
	}
	return v, v.check()
}

func (o *Options) check() error {
	for field, d := range map[string]time.Duration{
		"ReconnectFor": o.ReconnectFor, "StalledAfter": o.StalledAfter, "WarnReadyAfter": o.WarnReadyAfter, "DiscardReadyAfter": o.DiscardReadyAfter,
	} {
		if d < 0 {
			return fmt.Errorf("writer: Options.%s is %v, must not be negative", field, d)
		}
	}
	switch {
	case o.ChunkSize < wire.MinChunk || o.ChunkSize > wire.MaxChunk:
		return fmt.Errorf("writer: Options.ChunkSize is %d, must be %d to %d", o.ChunkSize, wire.MinChunk, wire.MaxChunk)
	case o.Memory < o.ChunkSize:
		return fmt.Errorf("writer: Options.Memory is %d, less than one chunk of %d", o.Memory, o.ChunkSize)
	case o.MaxState > wire.MaxStream:
		return fmt.Errorf("writer: Options.MaxState is %d, at most %d", o.MaxState, uint64(wire.MaxStream))
	}
	return nil
}

func checkTargets(targets []Target) error {
	var names []string
	for i, s := range targets {
		if s.Device == nil {
			return fmt.Errorf("writer: device %d (%q) is nil", i, s.Name)
		}
		names = append(names, s.Name)
	}
	if err := wire.CheckNames(names); err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	return nil
}
