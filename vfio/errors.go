package vfio

import (
	"errors"
	"fmt"
	"strings"
)

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
