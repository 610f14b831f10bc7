package vfio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// device is a kernel VFIO device. Its ioctls go straight to the kernel, so any
// of them may wait there behind a save or a load.
type device struct {
	name     string
	info     Info
	features Features
	fd       descriptor

	mu       sync.Mutex  // one SetState, Reset or Close at a time; guards the fields below
	session  *stream     // the data session that this device opened last, nil when it ended
	unusable atomic.Bool // a failure left the driver's session half freed: only a reset is safe
	closed   bool
}

// newDevice probes the features of the device behind fd. If it succeeds, the device owns fd,
// and calls onClose, which may be nil, after it has closed fd.
func newDevice(k kernel, fd int, name string, info Info, onClose func()) (*device, error) {
	d := &device{name: name, info: info, fd: descriptor{kernel: k, fd: fd, onClose: onClose}}
	if err := d.probe(); err != nil {
		return nil, fmt.Errorf("probe features: %w", err)
	}
	return d, nil
}

func (d *device) probe() error {
	arg := featureMigrationArg{featureHeader: featureHeader{16, featureGet | featureMigration}}
	err := d.callFeature(&arg)
	if isAny(err, unix.ENOTTY, unix.EINVAL) || err == nil && arg.migration&migrationStopCopy == 0 {
		return ErrNoMigration
	}
	if err != nil {
		return err
	}
	d.features.P2P = arg.migration&migrationP2P != 0
	d.features.PreCopy = arg.migration&migrationPreCopy != 0
	if d.features.DataSize, err = d.hasFeature(featureGet | featureMigDataSize); err != nil {
		return err
	}
	d.features.PreCopyInfoV2, err = d.enablePrecopyInfoV2()
	return err
}

// hasFeature probes for a feature that old kernels lack. They return ENOTTY, or
// EINVAL if the driver has no hook of its own (QAT).
func (d *device) hasFeature(feature uint32) (bool, error) {
	err := d.callFeature(&featureHeader{8, featureProbe | feature})
	if isAny(err, unix.ENOTTY, unix.EINVAL) {
		return false, nil
	}
	return err == nil, err
}

// enablePrecopyInfoV2 makes the kernel set precopy_info.flags, if the device
// can. The setting lasts until the device's last close.
func (d *device) enablePrecopyInfoV2() (bool, error) {
	has, err := d.hasFeature(featureSet | featureMigPrecopyInfoV2)
	if !has || !d.features.PreCopy {
		return false, err
	}
	return true, d.callFeature(&featureHeader{8, featureSet | featureMigPrecopyInfoV2})
}

func (d *device) callFeature(arg any) error { return d.fd.call(reqDeviceFeature, arg) }

func (d *device) Features() Features { return d.features }

func (d *device) Describe() Info { return d.info }

func (d *device) State() (State, error) {
	s, err := d.getState()
	if err != nil {
		return StateError, d.opError("get state", err)
	}
	return s, nil
}

func (d *device) getState() (State, error) {
	arg := featureStateArg{featureHeader: featureHeader{16, featureGet | featureMigDeviceState}, dataFD: -1}
	err := d.callFeature(&arg)
	return arg.state, err
}

// requestState issues one SET. It returns the session's fd, or -1 if the kernel
// opened none.
func (d *device) requestState(to State) (int, error) {
	arg := featureStateArg{
		featureHeader: featureHeader{16, featureSet | featureMigDeviceState},
		state:         to,
		dataFD:        -1,
	}
	if err := d.callFeature(&arg); err != nil {
		return -1, err
	}
	return int(arg.dataFD), nil
}

// SetState gets the state first, since another process or a reset may have
// changed it. It refuses requests that must not reach the kernel, and issues
// one SET.
func (d *device) SetState(to State) (Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from, err := d.State()
	if err != nil {
		return nil, err
	}
	err = d.noticeReset(from, to)
	if err == nil {
		err = d.checkRequest(from, to)
	}
	if err != nil {
		return nil, d.opError("set state", &TransitionError{From: from, To: to, Now: from, Err: err})
	}
	defer d.session.blockCalls()()
	fd, err := d.requestState(to)
	if e := d.checkResult(from, to, fd, err); e != nil {
		return nil, d.opError("set state", e)
	}
	if fd < 0 {
		d.updateSession(from, to)
		return nil, nil
	}
	d.endSession() // RESUMING -> PRE_COPY ends the old session
	d.session = newStream(d, fd, to)
	return d.session, nil
}

// noticeReset ends the session if a reset or another process has left its state
// since the last SET. It returns ErrSessionLost for a request that relies on
// the lost session:
//   - A saving session must not continue in a new one, which begins at byte 0.
//   - A load that was lost must not be taken for a complete one.
func (d *device) noticeReset(from, to State) error {
	if !from.Saving() {
		d.unusable.Store(false)
	}
	s := d.session
	if s == nil || s.resumes && from == Resuming || !s.resumes && from.Saving() {
		return nil
	}
	d.endSession()
	if s.resumes && to != Resuming || !s.resumes && (to == PreCopyP2P || to == StopCopy) {
		return ErrSessionLost
	}
	return nil
}

// checkRequest refuses requests that the kernel would answer with a splat in
// its log (from ERROR), or never (see [Next]).
func (d *device) checkRequest(from, to State) error {
	if d.unusable.Load() && from != StateError {
		return fmt.Errorf("%w: an earlier failure left it half freed, only a reset is safe", ErrSessionLost)
	}
	return Legal(from, to, d.features)
}

// checkResult returns an error if the result of a SET differs from what the
// state machine promises.
func (d *device) checkResult(from, to State, fd int, err error) *TransitionError {
	switch {
	case err != nil:
		return d.locateFailure(from, to, err)
	case fd < 0 && OpensSession(from, to):
		return d.leaveStreamless(from, to, errors.New("the kernel returned no fd"))
	case fd >= 0 && !OpensSession(from, to):
		// The device was reset between GET and SET: the kernel opened a new
		// session from byte 0, but the caller has bytes of the old one.
		d.fd.close(fd)
		d.endSession()
		return &TransitionError{From: from, To: to, Now: to, Err: ErrSessionLost}
	}
	return nil
}

// locateFailure gets the state in which a failed SET left the device. The
// kernel writes the requested state back even after a failure, so a GET is
// needed.
func (d *device) locateFailure(from, to State, cause error) *TransitionError {
	now, err := d.getState()
	if err == nil && now == to && OpensSession(from, to) {
		return d.leaveStreamless(from, to, cause)
	}
	switch {
	case err != nil: // the session may be dead: nothing may use it
		d.endSession()
	case d.isHalfFreed(from, to, now, cause):
		d.unusable.Store(true)
		d.endSession()
	case now != to || !to.Saving(): // no successful SET has confirmed a STOP_COPY reached this way
		d.updateSession(from, now)
	}
	return &TransitionError{From: from, To: to, Now: now, NowErr: err, Err: setCause(from, cause)}
}

// updateSession marks the open session as final, or ends it, as a transition
// requires.
func (d *device) updateSession(from, now State) {
	switch {
	case from.Saving() && now == StopCopy:
		d.session.markFinal()
	case from.Saving() && now.Saving(), from == now:
	default:
		d.endSession()
	}
}

func (d *device) endSession() {
	d.session.markEnded()
	d.session = nil
}

// isHalfFreed reports failures after which mlx5 still reports a saving state
// but has freed parts of its session: a clean-up failed, or a signal
// interrupted the wait for a save on the way to STOP_COPY. Any call but a reset
// may then touch freed memory in the kernel.
func (d *device) isHalfFreed(from, to, now State, cause error) bool {
	if !from.Saving() || !now.Saving() || d.info.Driver != "mlx5" && d.info.Driver != "" {
		return false
	}
	return isAny(cause, unix.ENODEV, unix.EIO) || to == StopCopy && isAny(cause, unix.EINTR)
}

// setCause adds the meaning of an errno of SET, if the errno has only one.
func setCause(from State, cause error) error {
	switch {
	case from == Resuming && isAny(cause, unix.EINVAL):
		return fmt.Errorf("%w: %w", ErrRejected, cause)
	case isAny(cause, unix.ENODEV):
		return fmt.Errorf("%w: %w", ErrSessionLost, cause)
	}
	return cause
}

// leaveStreamless leaves a state that the device entered although the kernel
// could not install its fd. Only entering the state again gives the fd. A reset
// leaves RESUMING, since on the way to STOP the driver would load a state that
// was never written.
func (d *device) leaveStreamless(from, to State, cause error) *TransitionError {
	d.endSession()
	var err error
	switch to {
	case Resuming:
		err = d.reset()
	case StopCopy:
		_, err = d.requestState(Stop)
	default:
		_, err = d.requestState(Running)
	}
	if err != nil {
		cause = fmt.Errorf("%w (and leaving the state again: %w)", cause, err)
	}
	e := &TransitionError{From: from, To: to, Err: fmt.Errorf("%w: %w", ErrNoStream, cause)}
	e.Now, e.NowErr = d.getState()
	if err != nil && e.NowErr == nil && e.Now.Saving() {
		d.unusable.Store(true) // the state cannot be left, and so not entered again
	}
	return e
}

// maxEstimate is the largest credible STOP_COPY estimate, 1 TiB. Some drivers
// return a negative errno as a size (xe).
const maxEstimate = 1 << 40

func (d *device) StopCopySize() (uint64, error) {
	if !d.features.DataSize {
		return 0, d.opError("estimate", errors.ErrUnsupported)
	}
	if d.unusable.Load() {
		return 0, d.opError("estimate", ErrSessionLost)
	}
	arg := featureSizeArg{featureHeader: featureHeader{16, featureGet | featureMigDataSize}}
	if err := d.callFeature(&arg); err != nil {
		return 0, d.opError("estimate", err)
	}
	if arg.stopCopyLength > maxEstimate {
		return 0, d.opError("estimate", fmt.Errorf("%w: estimate %#x is above 1 TiB", errors.ErrUnsupported, arg.stopCopyLength))
	}
	return arg.stopCopyLength, nil
}

// Reset waits until a write in progress returns, since a driver may free memory
// that the write uses (virtio). It retries while the PCI core finds the device
// locked.
func (d *device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.session.blockWrites()()
	if err := d.reset(); err != nil {
		return d.opError("reset", err)
	}
	d.endSession()
	d.unusable.Store(false)
	return nil
}

// resetTries bounds the wait for a locked device: 1+2+4+...+512 ms.
const resetTries = 11

func (d *device) reset() error {
	for try := range resetTries {
		err := d.fd.call(reqDeviceReset, nil)
		if !isAny(err, unix.EAGAIN) || try == resetTries-1 {
			return err
		}
		time.Sleep(time.Millisecond << try)
	}
	panic("unreachable")
}

// Close closes the device when no call uses it any more. An open session stays
// open while another process has the device open. A stream that is written ends
// here, since the last close frees memory that the driver's write uses
// (virtio).
func (d *device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	defer d.session.blockWrites()()
	if d.session != nil && d.session.resumes {
		d.endSession()
	}
	d.fd.closeWhenUnused()
	return nil
}

// opError names the device and the operation, and adds the meaning of an errno.
func (d *device) opError(op string, err error) error {
	e := &OpError{Op: op, Device: d.name, Offset: -1, Err: err}
	switch {
	case isAny(err, unix.ENOTTY):
		e.Kind = ErrNoMigration
	case isAny(err, unix.EMFILE):
		e.Hint = "raise this process's RLIMIT_NOFILE and enter the state again"
	case isAny(err, unix.ENFILE):
		e.Hint = "raise the system's fs.file-max and enter the state again"
	case op == "reset" && isAny(err, unix.EINVAL):
		e.Kind = errors.ErrUnsupported
	}
	return e
}
