package sim

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// Verifier is a device that can compare the state that it has loaded with the
// state of its source in STOP_COPY.
type Verifier interface {
	// Verify returns nil if both states are the same.
	Verify() error
}

// Device is a simulated device. It has no goroutines: each call advances it to
// the current time of package time.
type Device struct {
	p    *profile
	opts Options
	name string

	// ioctl is the driver's state lock, held for the duration of an ioctl or a
	// load. It is a channel, since a wait for a mutex would stop the clock of a
	// testing/synctest bubble.
	ioctl chan struct{}

	mu     sync.Mutex // guards the fields below, never held during a wait
	state  vfio.State
	sess   *session
	im     *image
	faults faults
	wake   chan struct{} // closed and replaced when waiting calls must check their condition again
	loaded error         // the result of Verify
	closed bool
	log    eventLog
	file   *logFile // nil for none
	found  bool     // the file of Options.Keep existed
	stats  Stats
}

var (
	_ vfio.Device    = (*Device)(nil)
	_ vfio.Describer = (*Device)(nil)
	_ Verifier       = (*Device)(nil)
)

var errNothingLoaded = errors.New("no state was loaded")

// Open creates a device of a profile (see [Profiles]) in RUNNING, or restores
// the device of [Options.Keep]. Nil options are the profile's defaults.
func Open(profile string, o *Options) (*Device, error) {
	p, err := lookup(profile)
	if err != nil {
		return nil, err
	}
	opts, err := o.withDefaults(p)
	if err != nil {
		return nil, fmt.Errorf("sim:%s: %w", profile, err)
	}
	d := &Device{
		p: p, opts: opts, name: "sim:" + profile,
		ioctl: make(chan struct{}, 1), wake: make(chan struct{}),
		state: vfio.Running, loaded: errNothingLoaded,
		faults: append(faults(nil), opts.Faults...),
	}
	if err := d.initialize(); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	return d, nil
}

// initialize gives the device its first state, and writes the first line of its log.
func (d *Device) initialize() (err error) {
	d.resetImage()
	if err = d.openKept(); err != nil || d.opts.Log == "" {
		return err
	}
	d.file, err = openLog(d.opts.Log)
	if err == nil {
		d.writeLog("open", Event{From: d.state, To: d.state})
	}
	return err
}

// OpenURL opens the device of the text that [Parse] accepts.
func OpenURL(s string) (*Device, error) {
	profile, o, err := Parse(s)
	if err != nil {
		return nil, err
	}
	return Open(profile, o)
}

// resetImage gives the device the state that it has after a reset.
func (d *Device) resetImage() {
	size, block := d.p.layout.shape(d.opts.Size)
	d.setImage(newImage(d.opts.Seed, d.opts.Content, size, block))
}

func (d *Device) setImage(im *image) {
	im.rate = d.opts.DirtyRate
	im.advance(time.Now(), d.guestRuns())
	d.im = im
}

// guestRuns reports whether the device's state changes. In the P2P states most
// drivers stop the device, and all of them stop the DMA that it initiates.
func (d *Device) guestRuns() bool { return d.state == vfio.Running || d.state == vfio.PreCopy }

func (d *Device) identity() identity {
	return identity{magic: d.p.magic, version: d.opts.StateVersion, units: uint32(max(d.opts.Ports, 1))}
}

// Features implements [vfio.Device].
func (d *Device) Features() vfio.Features { return d.p.features }

// Describe implements [vfio.Describer].
func (d *Device) Describe() vfio.Info { return vfio.Info{Driver: d.p.name, Format: "sim"} }

// Verify implements [Verifier]. Many drivers load a truncated state without an
// error (mlx5, virtio, QAT, pds, xe). So without [Options.Strict] a device may be
// in RUNNING although Verify fails.
func (d *Device) Verify() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loaded != nil {
		return fmt.Errorf("%s: verify: %w", d.name, d.loaded)
	}
	return nil
}

// Found reports whether Open has restored the device from the file of [Options.Keep].
func (d *Device) Found() bool { return d.found }

// lock takes the driver's state lock and then the device's mutex. It fails if
// the device is closed.
func (d *Device) lock(op string) (unlock func(), err error) {
	d.ioctl <- struct{}{}
	d.mu.Lock()
	unlock = func() {
		d.mu.Unlock()
		<-d.ioctl
	}
	if d.closed {
		unlock()
		return nil, d.fail(op, -1, os.ErrClosed)
	}
	return unlock, nil
}

func (d *Device) fail(op string, off int64, err error) error {
	return &vfio.OpError{Op: op, Device: d.name, Offset: off, Err: err}
}

// State implements [vfio.Device].
func (d *Device) State() (vfio.State, error) {
	unlock, err := d.lock("get state")
	if err != nil {
		return vfio.StateError, err
	}
	defer unlock()
	return d.state, nil
}

// StopCopySize implements [vfio.Device].
func (d *Device) StopCopySize() (uint64, error) {
	unlock, err := d.lock("get size")
	if err != nil {
		return 0, err
	}
	defer unlock()
	switch {
	case d.p.estimate > 0:
		return uint64(d.p.estimate), nil
	case d.capacity() == 0:
		return uint64(d.im.size), nil
	default:
		return uint64(d.opts.Size), nil
	}
}

// Reset implements [vfio.Device].
func (d *Device) Reset() error {
	unlock, err := d.lock("reset")
	if err != nil {
		return err
	}
	defer unlock()
	d.stats.Resets++
	if err := d.reset(); err != nil {
		return d.fail("reset", -1, err)
	}
	return nil
}

func (d *Device) reset() error {
	from := d.state
	d.endSession()
	d.state = vfio.Running
	d.loaded = errNothingLoaded
	d.resetImage()
	return d.recordChange("reset", Event{From: from, To: vfio.Running, Reset: true})
}

// enterError puts the device into ERROR.
func (d *Device) enterError() error {
	from := d.state
	d.endSession()
	d.state = vfio.StateError
	d.im.advance(time.Now(), false)
	return d.recordChange("fault", Event{From: from, To: vfio.StateError})
}

// recordChange writes the file of Options.Keep, and then logs the event. If the
// process is killed in between, the log lacks the change, but the next process's
// first line shows the new state. The other order could log a change that the
// device never made.
func (d *Device) recordChange(kind string, e Event) error {
	err := d.writeKept()
	d.logEvent(kind, e)
	return err
}

// endSession ends the session, if there is one, as a reset of the device does, and wakes the
// calls that wait for it.
func (d *Device) endSession() {
	if d.sess != nil && d.sess.err == nil {
		d.sess.err = fmt.Errorf("%w: %w", vfio.ErrSessionLost, syscall.ENODEV)
	}
	d.sess = nil
	d.wakeWaiting()
}

func (d *Device) wakeWaiting() {
	close(d.wake)
	d.wake = make(chan struct{})
}

// Close implements [vfio.Device]. It disables the session, and discards the device's
// state. A device of [Options.Keep] keeps its state, as if another process had it open.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.endSession()
	d.im.advance(time.Now(), false)
	if d.file == nil {
		return nil
	}
	d.writeLog("close", Event{From: d.state, To: d.state})
	return d.file.close()
}
