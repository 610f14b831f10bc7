package sim

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/migpipe/migpipe/vfio"
)

// FaultKind is the effect of a fault.
type FaultKind string

// The kinds of faults. A fault of the stream strikes when the session has moved
// At bytes.
const (
	FaultRead   FaultKind = "read"   // the Read fails with Errno, and ends the session
	FaultWrite  FaultKind = "write"  // the Write fails with Errno, and ends the session
	FaultShort  FaultKind = "short"  // the Write accepts no more bytes
	FaultHang   FaultKind = "hang"   // the Read or Write blocks until the session is lost
	FaultReset  FaultKind = "reset"  // the device is reset without a request of its owner
	FaultError  FaultKind = "error"  // the device enters ERROR
	FaultReinit FaultKind = "reinit" // the next Pending reports that the device was initialised again
	FaultSet    FaultKind = "set"    // the arc From -> To fails with Errno, and the state stays
)

var (
	streamFaults = []FaultKind{FaultRead, FaultWrite, FaultShort, FaultHang, FaultReset, FaultError, FaultReinit}
	saveFaults   = []FaultKind{FaultRead, FaultHang, FaultReset, FaultError}
	loadFaults   = []FaultKind{FaultWrite, FaultShort, FaultHang, FaultReset, FaultError}
)

// Fault is a failure that strikes once. Its text form is KIND@WHERE[:ERRNO].
// WHERE is a number of bytes for the faults of the stream ("read@64KiB:EIO",
// "reset@1MiB") and an arc for set ("set@STOP_COPY:EBUSY",
// "set@RESUMING-STOP:EINVAL"). The default errno is EIO.
type Fault struct {
	Kind     FaultKind
	At       int64
	From, To vfio.State // From is ERROR for any state
	Errno    syscall.Errno
}

var errnos = map[string]syscall.Errno{
	"EAGAIN": syscall.EAGAIN, "EBUSY": syscall.EBUSY, "EFAULT": syscall.EFAULT, "EINTR": syscall.EINTR,
	"EINVAL": syscall.EINVAL, "EIO": syscall.EIO, "ENODEV": syscall.ENODEV, "ENOMEM": syscall.ENOMEM,
	"ENOSPC": syscall.ENOSPC, "ENOTCONN": syscall.ENOTCONN, "EOPNOTSUPP": syscall.EOPNOTSUPP,
	"EREMOTEIO": syscall.EREMOTEIO, "ETIME": syscall.ETIME, "ETIMEDOUT": syscall.ETIMEDOUT,
}

// ParseFault parses the text form of a fault.
func ParseFault(s string) (Fault, error) {
	spec, errno, hasErrno := strings.Cut(s, ":")
	kind, where, ok := strings.Cut(spec, "@")
	f := Fault{Kind: FaultKind(kind), Errno: syscall.EIO}
	if !ok || f.Kind != FaultSet && !slices.Contains(streamFaults, f.Kind) {
		return Fault{}, fmt.Errorf("fault %q is not KIND@WHERE[:ERRNO] with KIND one of set, %s", s, join(streamFaults))
	}
	if hasErrno {
		if f.Errno, ok = errnos[errno]; !ok {
			return Fault{}, fmt.Errorf("fault %q: unknown errno %q", s, errno)
		}
	}
	var err error
	if f.Kind == FaultSet {
		f.From, f.To, err = parseArc(where)
	} else {
		f.At, err = parseSize(where)
	}
	if err != nil {
		return Fault{}, fmt.Errorf("fault %q: %w", s, err)
	}
	return f, nil
}

func parseArc(s string) (from, to vfio.State, err error) {
	a, b, found := strings.Cut(s, "-")
	if !found {
		to, err = parseState(a)
		return vfio.StateError, to, err
	}
	if from, err = parseState(a); err != nil {
		return 0, 0, err
	}
	to, err = parseState(b)
	return from, to, err
}

func parseState(s string) (vfio.State, error) {
	for st := vfio.Stop; st <= vfio.PreCopyP2P; st++ {
		if st.String() == s {
			return st, nil
		}
	}
	return 0, fmt.Errorf("unknown state %q", s)
}

// faults are those that have not struck yet.
type faults []Fault

// next returns the first fault of one of the kinds that strikes at or after pos,
// nil if there is none.
func (fs faults) next(kinds []FaultKind, pos int64) *Fault {
	var first *Fault
	for i := range fs {
		f := &fs[i]
		if f.At >= pos && slices.Contains(kinds, f.Kind) && (first == nil || f.At < first.At) {
			first = f
		}
	}
	return first
}

// forArc returns the fault of an arc, nil if there is none.
func (fs faults) forArc(from, to vfio.State) *Fault {
	for i := range fs {
		f := &fs[i]
		if f.Kind == FaultSet && f.To == to && (f.From == vfio.StateError || f.From == from) {
			return f
		}
	}
	return nil
}

// strike returns the fault and removes it, since each fault strikes once.
func (fs *faults) strike(f *Fault) Fault {
	struck := *f
	i := slices.Index(*fs, struck)
	*fs = slices.Delete(*fs, i, i+1)
	return struck
}

func join[S ~string](list []S) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}
