package vfio

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// State is a device's migration state, with the uAPI's numbers
// (enum vfio_device_mig_state).
type State uint32

// The migration states of include/uapi/linux/vfio.h.
const (
	Error      State = 0 // left only by a reset
	Stop       State = 1 // frozen: no DMA, no interrupts
	Running    State = 2
	StopCopy   State = 3 // frozen, the stream is produced to its end
	Resuming   State = 4 // the stream is consumed
	RunningP2P State = 5 // initiates no peer-to-peer DMA, still answers it
	PreCopy    State = 6 // running, and the stream is produced meanwhile
	PreCopyP2P State = 7
)

// String gives the state the name that the kernel's documentation uses.
func (s State) String() string {
	names := [...]string{"ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("State(%d)", uint32(s))
}

// Saving reports whether a saving session, and with it a readable stream,
// lives in s.
func (s State) Saving() bool { return s == PreCopy || s == PreCopyP2P || s == StopCopy }

// Features says what a device's driver and kernel can do. The zero value is a
// device without PRE_COPY, P2P or estimates; STOP_COPY is mandatory in the uAPI
// (VFIO_MIGRATION_STOP_COPY) and so has no field.
type Features struct {
	P2P           bool // VFIO_MIGRATION_P2P: RUNNING_P2P and PRE_COPY_P2P exist
	PreCopy       bool // VFIO_MIGRATION_PRE_COPY
	DataSize      bool // VFIO_DEVICE_FEATURE_MIG_DATA_SIZE answers
	PreCopyInfoV2 bool // precopy_info.flags is meaningful, REINIT included
}

// MigrationFlags gives the features as the uAPI does: VFIO_MIGRATION_STOP_COPY,
// which every migratable device has, _P2P and _PRE_COPY.
func (f Features) MigrationFlags() uint32 {
	flags := uint32(migrationStopCopy)
	if f.P2P {
		flags |= migrationP2P
	}
	if f.PreCopy {
		flags |= migrationPreCopy
	}
	return flags
}

// Device is one migratable device.
//
// SetState, State, StopCopySize and Reset may be called while a Read or Write
// of the device's stream is under way in another goroutine, and block where
// the driver blocks (seconds, behind a save or a load). No method takes a
// context, since no ioctl honours one: a blocked Read is woken by leaving the
// saving states.
type Device interface {
	// Features never changes during the life of the device.
	Features() Features
	// State asks the device for the state that it is in.
	State() (State, error)
	// SetState walks the device to a state. The Stream is non-nil exactly
	// where the kernel opens a data session (see [OpensSession]): a request
	// inside the saving states carries the session that is already open on.
	// After an error the device may be in the old state, in one between, or
	// in ERROR: the error says which (see [TransitionError]). The engines call
	// it by [Enter], which finds a device that breaks this.
	SetState(to State) (Stream, error)
	// StopCopySize estimates the bytes that STOP_COPY would still produce.
	// It is a hint, never a bound; errors.ErrUnsupported where the driver
	// has none.
	StopCopySize() (uint64, error)
	// Reset returns the device to RUNNING and loses its state. It is the only
	// way out of ERROR, and the way to abandon RESUMING.
	Reset() error
	// Close lets go of the device. It does not change the state of one that
	// somebody else holds open too.
	Close() error
}

// Stream is a device's data session: read while saving, written while RESUMING.
// One goroutine may read or write at a time; Pending may be called beside it.
// Closing a stream does not end the session: leaving the state does.
type Stream interface {
	// Read returns what the device has, up to len(p): [ErrDrained] when it has
	// nothing now but is not at its end (PRE_COPY), io.EOF only from a read
	// that began after STOP_COPY was reached. To give no byte and no error is
	// io.ErrNoProgress in the end. Write writes all of p or fails;
	// the first failed Write is final for the session.
	io.ReadWriteCloser
	// Pending gives the driver's estimate of what is still to be read in
	// PRE_COPY. It is more than a query: on mlx5 and virtio it is what makes
	// new dirty data appear, so ask it whenever Read says ErrDrained.
	// errors.ErrUnsupported where the driver has no PRE_COPY; ErrNotPreCopy
	// once the device has left PRE_COPY.
	Pending() (Pending, error)
}

// Pending is the answer of VFIO_MIG_GET_PRECOPY_INFO. Both numbers are hints.
type Pending struct {
	Initial uint64 // bytes that should reach the destination before the switchover
	Dirty   uint64 // bytes that running has produced since
	Reinit  bool   // the device was initialised anew: a new round of initial bytes begins
}

// Storage is a Device that puts the state which it loads into a place with room for so much.
// Devices of one place share its room.
type Storage interface {
	// Room is how many bytes the place has free for this process. Quotas may leave less.
	Room() (free uint64, place string, err error)
}

// HoleReader is a Stream whose source knows where zeros are that it does not store, as a file
// with holes does.
type HoleReader interface {
	// SkipHole moves past up to n bytes of such zeros, and returns how many: 0 where the next
	// byte is stored, or is none. It takes the place of a Read. After a 0, Read gives nothing
	// of the hole behind what is stored.
	SkipHole(n int) (int, error)
}

// ZeroWriter is a Stream whose sink has a cheaper way to write zeros (a hole in
// a file) than to be given them.
type ZeroWriter interface {
	// WriteZeros is Write of n zero bytes.
	WriteZeros(n int) error
}

// MaxNote is the length, in bytes, of the longest note of [Persistent]. It fits the smallest
// place that a file's extended attributes have: a block of 1 KiB on ext4.
const MaxNote = 512

// Persistent is a Stream whose state outlives process and host once it is complete.
// [Resumable] gives them.
type Persistent interface {
	Stream
	// Complete makes everything that was written durable, together with note, which
	// Resume returns. It follows the last Write. A failure is final for the session.
	Complete(note []byte) error
}

// Resumable is a Device that can hold a complete state through a crash of process or host.
// A state outlives the process only if Persist has begun its session and Complete has
// succeeded: one that is loaded in part never does.
//
// A session has an id of 1 to 64 letters, digits and hyphens: that of the migration, so that
// the state of one is never taken for another's. Reset ends the session and removes it. Detach
// and Close leave a complete one to a later process. When the device has left STOP for RUNNING
// the session is committed: its record stays, without the state, until Remove.
//
// A method that fails leaves the device in the state that it was in. All of them fail with
// ErrBusy where another process has the session, or the device has one at hand, and with
// errors.ErrUnsupported where this device holds nothing for a later process.
type Resumable interface {
	// Persist is SetState(RESUMING) with a new session. A complete session of the same id
	// is removed.
	Persist(id string) (Persistent, error)
	// Resume takes the complete state that a process before this one has left: the device
	// is in STOP then. note is that of Complete. It fails with fs.ErrNotExist if there is
	// no complete session of the id, and removes nothing then. It fails with ErrCommitted,
	// and gives the note, if the session is committed: the device is in RUNNING, with what
	// was loaded.
	Resume(id string) (note []byte, err error)
	// Remove removes a complete session, or the record of a committed one. It succeeds if
	// there is none.
	Remove(id string) error
	// Detach leaves the session at hand to a later process, if it is complete. The device
	// is in RUNNING then, as after Reset.
	Detach() error
	// Persisted lists what Remove would remove.
	Persisted() ([]PersistedSession, error)
}

// PersistedSession is a session of a Resumable that outlives the process that has loaded it.
type PersistedSession struct {
	ID    string
	Since time.Time // when it was last written to, by the wall clock
}

// Info describes a device to the other side, so that two that cannot
// understand each other's stream are told apart before the guest stops. All of
// it is a hint: the driver's own verdict on the bytes is final.
//
// Format is "" for kernel devices, which fits anything: no interface names a
// driver's format, and neither the driver nor the kernel's release tells it,
// since distributions backport drivers (mlx5's records of 6.2) and one driver
// reads several formats (hisi_acc's magic 2 also takes 1).
type Info struct {
	Driver    string // "mtty", "mlx5", "file", ... ; "" is unknown and fits anything
	Vendor    uint32 // PCI vendor id, 0 where there is none
	Device    uint32 // PCI device id
	Subsystem string // PCI "vendor:device" of the subsystem, "" where there is none
	Kernel    string // release of the running kernel
	Format    string // the stream's format where the device can name it: "sim"
}

// Describer is a Device that can say what it is.
type Describer interface {
	Describe() Info
}

// Describe returns what d says about itself, or the zero Info.
func Describe(d Device) Info {
	if s, ok := d.(Describer); ok {
		return s.Describe()
	}
	return Info{}
}

// Errors that callers tell apart with errors.Is. Each is wrapped with the
// device, the operation and the errno where there is one.
var (
	// ErrDrained: PRE_COPY has nothing to read now, more may come
	// (a read of 0, ENOMSG or EAGAIN).
	ErrDrained = errors.New("nothing to read now")
	// ErrNotPreCopy: the estimate was asked for outside PRE_COPY (EINVAL).
	ErrNotPreCopy = errors.New("device is not in PRE_COPY")
	// ErrSessionLost: the data session is dead; the device was reset or has
	// left the state (ENODEV). Only a new session from byte 0 helps.
	ErrSessionLost = errors.New("data session lost")
	// ErrCommitted: the session was committed, and its device runs (Resumable).
	ErrCommitted = errors.New("the session is committed")
	// ErrBlocked: the arc is forbidden by the uAPI and was not even requested.
	ErrBlocked = errors.New("transition is forbidden")
	// ErrUnsupportedState: the device lacks the state.
	ErrUnsupportedState = errors.New("device has no such state")
	// ErrInError: the device is in ERROR; only Reset helps.
	ErrInError = errors.New("device is in ERROR, only a reset helps")
	// ErrNoStream: the state was reached but the session's fd could not be
	// installed (EMFILE, ENFILE, EFAULT); the device has left the state again.
	ErrNoStream = errors.New("state entered but its stream was lost")
	// ErrNoMigration: the device or its driver cannot migrate.
	ErrNoMigration = errors.New("device has no migration support")
	// ErrBusy: somebody else has the device.
	ErrBusy = errors.New("device is in use")
	// ErrRejected: the destination device refused the bytes or the loaded
	// state (which errno says so differs by driver).
	ErrRejected = errors.New("device rejected the state")
	// ErrShortWrite: the device took less than it was given and no more.
	ErrShortWrite = errors.New("device took no more bytes")
)

// TransitionError reports a SetState that failed, and where the device is now.
type TransitionError struct {
	From, To State
	Now      State // the state the device says it is in afterwards
	NowErr   error // why Now is unknown, if it is
	Err      error // the cause: an errno or one of the errors above
}

// Error names both states, the cause, and where the device is now.
func (e *TransitionError) Error() string {
	now := e.Now.String()
	if e.NowErr != nil {
		now = "unknown (" + e.NowErr.Error() + ")"
	}
	return fmt.Sprintf("%v -> %v: %v (device is now in %s)", e.From, e.To, e.Err, now)
}

// Unwrap gives the cause.
func (e *TransitionError) Unwrap() error { return e.Err }

// OpError says which operation failed on which device. errors.Is finds both
// its Kind and its Err.
type OpError struct {
	Op     string // "open", "set state", "read", "write", ...
	Device string // the name that the device was opened by
	Offset int64  // stream byte at which a read or write failed, -1 elsewhere
	Kind   error  // one of this package's errors or errors.ErrUnsupported; nil if none fits
	Err    error  // the cause, mostly an errno; nil if Kind says it all
	Hint   string // the next step to take; "" if none is known
}

// Error names the device, the operation and the cause on one line.
func (e *OpError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vfio: %s: %s", e.Device, e.Op)
	if e.Offset >= 0 {
		fmt.Fprintf(&b, " at byte %d", e.Offset)
	}
	for _, err := range e.Unwrap() {
		fmt.Fprintf(&b, ": %v", err)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// Unwrap gives the kind and the cause, as far as they are known.
func (e *OpError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// isAny reports whether err is one of the targets.
func isAny[E error](err error, targets ...E) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
