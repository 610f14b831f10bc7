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
	StateError State = 0 // left only by a reset
	Stop       State = 1 // frozen: no DMA, no interrupts
	Running    State = 2
	StopCopy   State = 3 // frozen: the device produces the stream to its end
	Resuming   State = 4 // the device consumes the stream
	RunningP2P State = 5 // initiates no peer-to-peer DMA, but answers it
	PreCopy    State = 6 // running: the device produces the stream meanwhile
	PreCopyP2P State = 7
)

// String returns the name that the kernel's documentation uses for the state.
func (s State) String() string {
	names := [...]string{"ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("State(%d)", uint32(s))
}

// Saving reports whether a device in s has a saving session, and with it a
// readable stream.
func (s State) Saving() bool { return s == PreCopy || s == PreCopyP2P || s == StopCopy }

// Features are the optional capabilities of a device's driver and kernel. The
// zero value is a device without PRE_COPY, P2P or estimates. STOP_COPY is
// mandatory in the uAPI (VFIO_MIGRATION_STOP_COPY), so it has no field.
type Features struct {
	P2P           bool // VFIO_MIGRATION_P2P: RUNNING_P2P and PRE_COPY_P2P exist
	PreCopy       bool // VFIO_MIGRATION_PRE_COPY
	DataSize      bool // VFIO_DEVICE_FEATURE_MIG_DATA_SIZE is supported
	PreCopyInfoV2 bool // precopy_info.flags is meaningful, including REINIT
}

// MigrationFlags returns the features as flags of the uAPI:
// VFIO_MIGRATION_STOP_COPY, which every migratable device has, _P2P and
// _PRE_COPY.
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
// SetState, State, StopCopySize and Reset may be called while another goroutine
// reads or writes the device's stream. They block while the driver blocks: for
// seconds, behind a save or a load. No method takes a context, since no ioctl
// can be cancelled. A transition that leaves the saving states wakes a blocked
// Read.
type Device interface {
	// Features never changes during the life of the device.
	Features() Features
	// State gets the device's current state.
	State() (State, error)
	// SetState walks the device to a state. The Stream is non-nil exactly
	// if the kernel opens a data session (see [OpensSession]). A request from
	// one saving state to another continues the open session.
	// After an error the device may be in the old state, in an intermediate
	// state, or in ERROR: the error names it (see [TransitionError]). The
	// engines call SetState by [Enter], which detects a device that violates
	// this contract.
	SetState(to State) (Stream, error)
	// StopCopySize estimates how many bytes STOP_COPY would still produce.
	// The estimate is a hint, never a bound. It fails with
	// errors.ErrUnsupported if the driver has no estimate.
	StopCopySize() (uint64, error)
	// Reset returns the device to RUNNING and discards its state. It is the
	// only way out of ERROR, and the way to abandon RESUMING.
	Reset() error
	// Close closes the device. It does not change the state of a device that
	// another process holds open too.
	Close() error
}

// Stream is a device's data session: read while saving, written while RESUMING.
// One goroutine may read or write at a time. Another may call Pending meanwhile.
// Close does not end the session: a transition that leaves the state does.
type Stream interface {
	// Read returns the bytes that the device has, up to len(p). It fails with
	// [ErrDrained] if the device has no bytes now but is not at the end of its
	// stream (PRE_COPY). It returns io.EOF only if it began after the device
	// had reached STOP_COPY. Callers turn repeated results without bytes and
	// error into io.ErrNoProgress. Write writes all of p or fails. The first
	// failed Write is final for the session.
	io.ReadWriteCloser
	// Pending returns the driver's estimate of the bytes that are still to be
	// read in PRE_COPY. On mlx5 and virtio new dirty data appears only after
	// this call, so call it whenever Read returns ErrDrained. It fails with
	// errors.ErrUnsupported if the driver has no PRE_COPY, and with
	// ErrNotPreCopy if the device has left PRE_COPY.
	Pending() (Pending, error)
}

// Pending is the result of VFIO_MIG_GET_PRECOPY_INFO. Both numbers are estimates.
type Pending struct {
	Initial uint64 // bytes that should reach the destination before the switchover
	Dirty   uint64 // bytes that the running device has produced since
	Reinit  bool   // the device was initialised again: a new round of initial bytes begins
}

// Storage is a Device that stores the state which it loads in a place of limited size, as a
// file system. Devices of one place share its free bytes.
type Storage interface {
	// Room returns the number of bytes that the place has free for this process. Quotas may
	// leave less.
	Room() (free uint64, place string, err error)
}

// HoleReader is a Stream that knows the position of zeros that its source does not store, as a
// file with holes does.
type HoleReader interface {
	// SkipHole moves past up to n zero bytes that are not stored, and returns their number.
	// It returns 0 if the next byte is stored, or at the end. It replaces a Read. After a 0,
	// the next Read stops in front of the next hole.
	SkipHole(n int) (int, error)
}

// ZeroWriter is a Stream that has a cheaper way to write zeros than Write, as a
// hole in a file.
type ZeroWriter interface {
	// WriteZeros writes n zero bytes.
	WriteZeros(n int) error
}

// MaxNote is the length, in bytes, of the longest note of [Persistent]. It fits the smallest
// space that a file system has for a file's extended attributes: a block of 1 KiB on ext4.
const MaxNote = 512

// Persistent is a Stream whose state outlives process and host when it is complete.
// [Resumable.Persist] returns one.
type Persistent interface {
	Stream
	// Complete persists everything that was written, and note, which Resume returns. Call
	// it after the last Write. A failure is final for the session.
	Complete(note []byte) error
}

// Resumable is a Device that can hold a complete state through a crash of process or host.
// A state outlives the process only if Persist has begun its session and Complete has
// succeeded. An incomplete state never does.
//
// A session has an id of 1 to 64 letters, digits and hyphens. It is the migration's id, so that
// states of different migrations are not confused. Reset ends the session and removes it. Detach
// and Close end it too, but a complete one stays for a later process. When the device goes from
// STOP to RUNNING the session is committed: its record stays, without the state, until Remove.
//
// A method that fails does not change the device's state. Every method fails with
//   - ErrBusy if another process has the session, or the device has an open session;
//   - errors.ErrUnsupported if this device holds nothing for a later process.
type Resumable interface {
	// Persist does SetState(RESUMING) with a new session. It removes a complete session of
	// the same id.
	Persist(id string) (Persistent, error)
	// Resume loads the complete state that an earlier process has persisted, and leaves the
	// device in STOP. note is the argument of Complete. Resume fails with fs.ErrNotExist,
	// and removes nothing, if the id has no complete session. If the session is committed,
	// Resume returns the note and ErrCommitted: the device is in RUNNING, with the loaded
	// state.
	Resume(id string) (note []byte, err error)
	// Remove removes a complete session, or the record of a committed one. It succeeds if
	// there is none.
	Remove(id string) error
	// Detach ends the open session. A complete one stays for a later process. The device is
	// in RUNNING afterwards, as after Reset.
	Detach() error
	// Persisted lists the sessions that Remove would remove.
	Persisted() ([]PersistedSession, error)
}

// PersistedSession is a session of a Resumable that outlives the process that has loaded it.
type PersistedSession struct {
	ID    string
	Since time.Time // time of the last write, by the wall clock
}

// Info describes a device to the other side, so that the two sides detect
// incompatible devices before the guest is paused. All of it is a hint: only the
// driver decides whether it accepts the bytes.
//
// Format is "" for kernel devices, which matches everything. No interface names a
// driver's format. It does not follow from the driver or the kernel's release
// either: distributions backport drivers (mlx5's records of 6.2), and one driver
// reads several formats (hisi_acc's magic 2 also takes 1).
type Info struct {
	Driver    string // "mtty", "mlx5", "file", ... ; "" is unknown and matches everything
	Vendor    uint32 // PCI vendor id, 0 if there is none
	Device    uint32 // PCI device id
	Subsystem string // PCI "vendor:device" of the subsystem, "" if there is none
	Kernel    string // release of the running kernel
	Format    string // the stream's format if the device can name it: "sim"
}

// Describer is a Device that can describe itself.
type Describer interface {
	Describe() Info
}

// Describe returns the description of d, or the zero Info if d has none.
func Describe(d Device) Info {
	if s, ok := d.(Describer); ok {
		return s.Describe()
	}
	return Info{}
}

// Errors that callers distinguish with errors.Is. Each is wrapped with the
// device, the operation and the errno if there is one.
var (
	// ErrDrained: a device in PRE_COPY has nothing to read now, but more may
	// follow (a read of 0, ENOMSG or EAGAIN).
	ErrDrained = errors.New("device has nothing to read now")
	// ErrNotPreCopy: the estimate was requested outside PRE_COPY (EINVAL).
	ErrNotPreCopy = errors.New("device is not in PRE_COPY")
	// ErrSessionLost: the data session has ended, since the device was reset
	// or has left the state (ENODEV). Only a new session from byte 0 helps.
	ErrSessionLost = errors.New("data session lost")
	// ErrCommitted: the session was committed, and its device runs (Resumable).
	ErrCommitted = errors.New("session is committed")
	// ErrBlocked: the uAPI forbids the arc. The kernel did not see the request.
	ErrBlocked = errors.New("transition is forbidden")
	// ErrUnsupportedState: the device lacks the state.
	ErrUnsupportedState = errors.New("device has no such state")
	// ErrInError: the device is in ERROR; only Reset helps.
	ErrInError = errors.New("device is in ERROR, only a reset helps")
	// ErrNoStream: the device reached the state, but the kernel could not
	// install the session's fd (EMFILE, ENFILE, EFAULT). The device has left
	// the state again.
	ErrNoStream = errors.New("state entered but its stream was lost")
	// ErrNoMigration: the device or its driver cannot migrate.
	ErrNoMigration = errors.New("device has no migration support")
	// ErrBusy: another process, or another Device, has the device.
	ErrBusy = errors.New("device is in use")
	// ErrRejected: the destination device refused the bytes or the loaded
	// state. Its errno differs by driver.
	ErrRejected = errors.New("device rejected the state")
	// ErrShortWrite: the device accepted fewer bytes than it was given.
	ErrShortWrite = errors.New("device accepted no more bytes")
)

// TransitionError reports a SetState that failed, and the device's state now.
type TransitionError struct {
	From, To State
	Now      State // the device's state after the failure
	NowErr   error // the reason if Now is unknown
	Err      error // the cause: an errno or one of the errors above
}

// Error names both states, the cause, and the device's state now.
func (e *TransitionError) Error() string {
	now := e.Now.String()
	if e.NowErr != nil {
		now = "unknown (" + e.NowErr.Error() + ")"
	}
	return fmt.Sprintf("%v -> %v: %v (device is now in %s)", e.From, e.To, e.Err, now)
}

// Unwrap returns the cause.
func (e *TransitionError) Unwrap() error { return e.Err }

// OpError names the operation that failed and its device. errors.Is finds both
// its Kind and its Err.
type OpError struct {
	Op     string // "open", "set state", "read", "write", ...
	Device string // the name that the device was opened by
	Offset int64  // stream byte at which a read or write failed, -1 for other operations
	Kind   error  // one of this package's errors or errors.ErrUnsupported; nil if none fits
	Err    error  // the cause, mostly an errno; nil if Kind is the whole cause
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

// Unwrap returns the kind and the cause, as far as they are known.
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
