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

	mu       sync.Mutex  // one SetState, Reset or Close at a time; guards what follows
	session  *stream     // the data session that this device opened last, nil when it ended
	unusable atomic.Bool // a failure left the driver's session half gone: only a reset is safe
	closed   bool
}

// newDevice asks the device behind fd what it can do. When this succeeds, the device owns fd,
// and calls closes, which may be nil, after it has closed fd.
func newDevice(k kernel, fd int, name string, info Info, closes func()) (*device, error) {
	d := &device{name: name, info: info, fd: descriptor{kernel: k, fd: fd, closes: closes}}
	if err := d.probe(); err != nil {
		return nil, fmt.Errorf("ask for features: %w", err)
	}
	return d, nil
}

func (d *device) probe() error {
	arg := featureMigrationArg{featureHeader: featureHeader{16, featureGet | featureMigration}}
	err := d.feature(&arg)
	if isAny(err, unix.ENOTTY, unix.EINVAL) || err == nil && arg.migration&migrationStopCopy == 0 {
		return ErrNoMigration
	}
	if err != nil {
		return err
	}
	d.features.P2P = arg.migration&migrationP2P != 0
	d.features.PreCopy = arg.migration&migrationPreCopy != 0
	if d.features.DataSize, err = d.has(featureGet | featureMigDataSize); err != nil {
		return err
	}
	d.features.PreCopyInfoV2, err = d.optIn()
	return err
}

// has probes for a feature that old kernels lack. They say ENOTTY, or EINVAL
// where the driver has no hook of its own (QAT).
func (d *device) has(feature uint32) (bool, error) {
	err := d.feature(&featureHeader{8, featureProbe | feature})
	if isAny(err, unix.ENOTTY, unix.EINVAL) {
		return false, nil
	}
	return err == nil, err
}

// optIn asks for the meaning of precopy_info.flags, which the kernel forgets
// at the device's last close.
func (d *device) optIn() (bool, error) {
	has, err := d.has(featureSet | featureMigPrecopyInfoV2)
	if !has || !d.features.PreCopy {
		return false, err
	}
	return true, d.feature(&featureHeader{8, featureSet | featureMigPrecopyInfoV2})
}

func (d *device) feature(arg any) error { return d.fd.call(reqDeviceFeature, arg) }

func (d *device) Features() Features { return d.features }

func (d *device) Describe() Info { return d.info }

func (d *device) State() (State, error) {
	s, err := d.getState()
	if err != nil {
		return Error, d.fail("get state", err)
	}
	return s, nil
}

func (d *device) getState() (State, error) {
	arg := featureStateArg{featureHeader: featureHeader{16, featureGet | featureMigDeviceState}, dataFD: -1}
	err := d.feature(&arg)
	return arg.state, err
}

// set returns the session's fd, or -1 where the kernel opened none.
func (d *device) set(to State) (int, error) {
	arg := featureStateArg{
		featureHeader: featureHeader{16, featureSet | featureMigDeviceState},
		state:         to,
		dataFD:        -1,
	}
	if err := d.feature(&arg); err != nil {
		return -1, err
	}
	return int(arg.dataFD), nil
}

// SetState asks the device where it is, since somebody else or a reset may
// have moved it, refuses what must not reach the kernel, and issues one SET.
func (d *device) SetState(to State) (Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from, err := d.State()
	if err != nil {
		return nil, err
	}
	err = d.notice(from, to)
	if err == nil {
		err = d.refuse(from, to)
	}
	if err != nil {
		return nil, d.fail("set state", &TransitionError{From: from, To: to, Now: from, Err: err})
	}
	defer d.session.join()()
	fd, err := d.set(to)
	if e := d.check(from, to, fd, err); e != nil {
		return nil, d.fail("set state", e)
	}
	if fd < 0 {
		d.follow(from, to)
		return nil, nil
	}
	d.dropSession() // RESUMING -> PRE_COPY ends one on its way
	d.session = newStream(d, fd, to)
	return d.session, nil
}

// notice takes in what a reset, or somebody else, did since the last SET. A
// session whose state was left is dead: what would carry it on must not open
// another one, which begins at byte 0, and a load that was lost must not pass
// for one that is complete.
func (d *device) notice(from, to State) error {
	if !from.Saving() {
		d.unusable.Store(false)
	}
	s := d.session
	if s == nil || s.resumes && from == Resuming || !s.resumes && from.Saving() {
		return nil
	}
	d.dropSession()
	if s.resumes && to != Resuming || !s.resumes && (to == PreCopyP2P || to == StopCopy) {
		return ErrSessionLost
	}
	return nil
}

// refuse keeps from the kernel what it would answer with a splat in its log
// (ERROR) or not at all (see [Next]).
func (d *device) refuse(from, to State) error {
	if d.unusable.Load() && from != Error {
		return fmt.Errorf("%w: an earlier failure left it half gone, only a reset is safe", ErrSessionLost)
	}
	return Legal(from, to, d.features)
}

// check turns what a SET returned into an error where it is not what the
// state machine promises.
func (d *device) check(from, to State, fd int, err error) *TransitionError {
	switch {
	case err != nil:
		return d.failed(from, to, err)
	case fd < 0 && OpensSession(from, to):
		return d.noStream(from, to, errors.New("the kernel returned no fd"))
	case fd >= 0 && !OpensSession(from, to):
		// A reset between GET and SET: this is a new session that begins at
		// byte 0, and the caller holds bytes of the old one.
		d.fd.close(fd)
		d.dropSession()
		return &TransitionError{From: from, To: to, Now: to, Err: ErrSessionLost}
	}
	return nil
}

// failed finds out where a failed SET left the device. The kernel writes the
// requested state back whatever happened, so only a GET tells.
func (d *device) failed(from, to State, cause error) *TransitionError {
	now, err := d.getState()
	if err == nil && now == to && OpensSession(from, to) {
		return d.noStream(from, to, cause)
	}
	switch {
	case err != nil: // the session may be dead, so nothing may use it
		d.dropSession()
	case d.halfGone(from, to, now, cause):
		d.unusable.Store(true)
		d.dropSession()
	case now != to || !to.Saving(): // a STOP_COPY reached thus was confirmed by nobody
		d.follow(from, now)
	}
	return &TransitionError{From: from, To: to, Now: now, NowErr: err, Err: setCause(from, cause)}
}

// follow tells the open session what a transition means to it.
func (d *device) follow(from, now State) {
	switch {
	case from.Saving() && now == StopCopy:
		d.session.finish()
	case from.Saving() && now.Saving(), from == now:
	default:
		d.dropSession()
	}
}

func (d *device) dropSession() {
	d.session.end()
	d.session = nil
}

// halfGone reports the failures after which mlx5 still says that it saves but
// has no session to save with: a clean-up that failed, or a wait for a save
// that a signal cut short on the way to STOP_COPY. Any call but a reset may
// then touch freed memory in the kernel.
func (d *device) halfGone(from, to, now State, cause error) bool {
	if !from.Saving() || !now.Saving() || d.info.Driver != "mlx5" && d.info.Driver != "" {
		return false
	}
	return isAny(cause, unix.ENODEV, unix.EIO) || to == StopCopy && isAny(cause, unix.EINTR)
}

// setCause says what an errno of SET means where it means one thing only.
func setCause(from State, cause error) error {
	switch {
	case from == Resuming && isAny(cause, unix.EINVAL):
		return fmt.Errorf("%w: %w", ErrRejected, cause)
	case isAny(cause, unix.ENODEV):
		return fmt.Errorf("%w: %w", ErrSessionLost, cause)
	}
	return cause
}

// noStream leaves a state that was entered although its fd could not be
// installed: the fd can be had only by entering anew. RESUMING is left by a
// reset, since its way to STOP would have the driver load what never came.
func (d *device) noStream(from, to State, cause error) *TransitionError {
	d.dropSession()
	var err error
	switch to {
	case Resuming:
		err = d.reset()
	case StopCopy:
		_, err = d.set(Stop)
	default:
		_, err = d.set(Running)
	}
	if err != nil {
		cause = fmt.Errorf("%w (and leaving the state again: %w)", cause, err)
	}
	e := &TransitionError{From: from, To: to, Err: fmt.Errorf("%w: %w", ErrNoStream, cause)}
	e.Now, e.NowErr = d.getState()
	if err != nil && e.NowErr == nil && e.Now.Saving() {
		d.unusable.Store(true) // it could not be left, and so not be entered anew
	}
	return e
}

// maxEstimate is the largest believable STOP_COPY estimate, 1 TiB: drivers
// were seen to hand a negative errno through as a size (xe).
const maxEstimate = 1 << 40

func (d *device) StopCopySize() (uint64, error) {
	if !d.features.DataSize {
		return 0, d.fail("estimate", errors.ErrUnsupported)
	}
	if d.unusable.Load() {
		return 0, d.fail("estimate", ErrSessionLost)
	}
	arg := featureSizeArg{featureHeader: featureHeader{16, featureGet | featureMigDataSize}}
	if err := d.feature(&arg); err != nil {
		return 0, d.fail("estimate", err)
	}
	if arg.stopCopyLength > maxEstimate {
		return 0, d.fail("estimate", fmt.Errorf("%w: absurd answer %#x", errors.ErrUnsupported, arg.stopCopyLength))
	}
	return arg.stopCopyLength, nil
}

// Reset waits for a write under way to return, since a driver may free what
// the write uses (virtio), and tries again while the PCI core finds the device
// locked.
func (d *device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.session.joinWriter()()
	if err := d.reset(); err != nil {
		return d.fail("reset", err)
	}
	d.dropSession()
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

// Close lets go of the device once no call uses it any more. A session that is
// open stays open while somebody else has the device open too; but a stream
// that is written ends here, since the last close frees what the driver's
// write uses (virtio).
func (d *device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	defer d.session.joinWriter()()
	if d.session != nil && d.session.resumes {
		d.dropSession()
	}
	d.fd.shut()
	return nil
}

// fail names the device and the operation, and says what an errno means.
func (d *device) fail(op string, err error) error {
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
