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

// Limits of time that end an attempt.
var (
	ErrNoWitness    = errors.New("the witness does not answer")        // Options.Witness
	ErrStalled      = errors.New("no progress within the stall limit") // Options.StalledAfter
	ErrReadyExpired = errors.New("no COMMIT within the discard limit") // Options.DiscardReadyAfter
)

// ErrCopyHeld says that the user ended Receive while a complete copy stays READY: its source is out
// of reach.
var ErrCopyHeld = errors.New("cancelled: the source is out of reach, and its complete copy stays READY")

// Target is one device that takes the state of the source's device of the same name. The caller
// opened the device, and closes it after Receive.
type Target struct {
	Name   string
	Device vfio.Device
	// HeldOpen says that another process holds the device open too. Then the state of the device
	// outlives this process, and another process can continue with it.
	HeldOpen bool
}

// Options tunes Receive. Nil, or a zero field, means the default.
type Options struct {
	// Memory, and the size of a state.

	// Memory is the size of the chunk buffers, in bytes: chunks in flight and chunks that wait for
	// a device. Default 32 MiB.
	Memory int
	// ChunkSize is the largest chunk that is accepted, in bytes. Default 1 MiB.
	ChunkSize int
	// MaxState is the largest number of bytes that one device may send. An estimate never bounds a
	// stream; this does. Default 1 TiB.
	MaxState uint64

	// How long a source is waited for.

	// ReconnectFor is how long Receive waits for a source that was lost, before the copy is
	// complete and when the devices run. For a complete copy it waits for ever. Default 60 s.
	ReconnectFor time.Duration
	// StalledAfter ends an attempt whose devices write nothing for that long although the source
	// has sent everything. Default 30 s, because some drivers load for seconds in one write. It
	// also ends an attempt whose source reports remaining bytes and sends none for that long.
	StalledAfter time.Duration
	// WarnReadyAfter is how long a complete copy waits for COMMIT before Receive emits a warning.
	// Default 60 s.
	WarnReadyAfter time.Duration
	// DiscardReadyAfter discards a complete copy for which COMMIT has not come for that long. That
	// never makes two running copies: a source that sends COMMIT later is DECLINED, and resumes.
	// But if the source's host has died by then, no copy is left. Default: a copy is held for ever.
	DiscardReadyAfter time.Duration

	// The VMM, and hooks.

	// OnAccept runs when ACCEPT is recorded, before the devices are started: this side owns them
	// now. If it fails, the start has failed: Receive holds the copy, and the source may resume its
	// devices. If the devices already run, as after a crash of this side, a failure is a warning.
	OnAccept handoff.Hook
	// StartGuest starts the vCPUs when ACCEPT is recorded and all devices run. Receive sends
	// RUNNING after StartGuest has returned nil. Until then the source holds its copy. An error
	// means that the guest may have run. Receive then leaves the devices as they are, the outcome
	// is migration.NeedsReset, and the source stays in doubt: people decide. Its ctx does not end
	// before StartGuest returns: no cancel counts after ACCEPT. Default: there is no guest.
	StartGuest func(context.Context) error

	// The right to run: its record, who decides in doubt, and a copy of an earlier process.

	// Journals opens the journal of a migration, which takes the records of the hand-off. Receive
	// calls it when HELLO has named the migration. It may block for as long as a disk does. Receive
	// closes a journal that is an io.Closer. Default: handoff.InMemory.
	Journals handoff.Journals
	// Witness decides whether this side may accept the devices. The source must have the same one.
	// Default: none.
	Witness witness.Witness
	// Continue names a migration that an earlier process left here. Receive continues it in two
	// cases: the targets are HeldOpen and hold the state that its journal records, or all are
	// vfio.Resumable and hold its complete copy. Otherwise, and if Continue is zero, Receive starts
	// over, and at once resets devices that were loaded in part. It still continues a complete copy
	// if the source of that copy is the first to come.
	Continue migration.ID
	// HoldCopy asks a Receive whose ctx is cancelled to end, and to hold a complete copy as it is
	// recorded. It counts only after Receive has emitted migration.Held. The outcome is then
	// migration.InDoubt, and the error ErrCopyHeld. A closed channel asks from then on. Default:
	// the cancelled ctx asks for that too.
	HoldCopy <-chan struct{}

	// What others see.

	// Observe receives every event. It must not block.
	Observe migration.Observer
	// Software is the name and version that this side sends to its peer.
	Software string
	// StepTimes stores how long OnAccept and StartGuest took. The source uses that for the next
	// prediction. Default: none, and the source's prediction is a lower bound.
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
