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

// Verifier is a device that knows whether the state that was loaded into it is
// the state that its source had when it stopped.
type Verifier interface {
	// Verify is nil only then.
	Verify() error
}

// Device is a simulated device. It starts nothing in the background: whoever
// calls it makes it catch up with the clock of package time.
type Device struct {
	p    *profile
	opts Options
	name string

	// ioctl is the driver's state lock, held while an ioctl or a load takes its
	// time. It is a channel because such a wait must not stop the clock of a
	// testing/synctest bubble.
	ioctl chan struct{}

	mu     sync.Mutex // guards what follows, never held while waiting
	state  vfio.State
	sess   *session
	im     *image
	faults faults
	wake   chan struct{} // closed, and made anew, when a waiting call has to look again
	loaded error         // what Verify says
	closed bool
	log    eventLog
	file   *logFile // nil for none
	found  bool     // in the file of Options.Keep
	stats  Stats
}

var (
	_ vfio.Device    = (*Device)(nil)
	_ vfio.Describer = (*Device)(nil)
	_ Verifier       = (*Device)(nil)
)

var errNothingLoaded = errors.New("no state was loaded")

// Open makes a device of a profile (see [Profiles]), in RUNNING, or takes up the
// one of [Options.Keep]. Nil options are the profile's own.
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
	if err := d.begin(); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	return d, nil
}

// begin gives the device what it holds at first, and its log the first line.
func (d *Device) begin() (err error) {
	d.renew()
	if err = d.find(); err != nil || d.opts.Log == "" {
		return err
	}
	d.file, err = openLog(d.opts.Log)
	if err == nil {
		d.write("open", Event{From: d.state, To: d.state})
	}
	return err
}

// OpenURL opens what [Parse] reads.
func OpenURL(s string) (*Device, error) {
	profile, o, err := Parse(s)
	if err != nil {
		return nil, err
	}
	return Open(profile, o)
}

// renew gives the device the state that it has after a reset.
func (d *Device) renew() {
	size, block := d.p.layout.shape(d.opts.Size)
	d.adopt(newImage(d.opts.Seed, d.opts.Content, size, block))
}

func (d *Device) adopt(im *image) {
	im.rate = d.opts.DirtyRate
	im.run(time.Now(), d.guestRuns())
	d.im = im
}

// guestRuns says whether the state changes: in the P2P states most drivers
// stop the device for good, and all of them stop what it initiates.
func (d *Device) guestRuns() bool { return d.state == vfio.Running || d.state == vfio.PreCopy }

func (d *Device) identity() identity {
	return identity{magic: d.p.magic, version: d.opts.StateVersion, units: uint32(max(d.opts.Ports, 1))}
}

// Features implements [vfio.Device].
func (d *Device) Features() vfio.Features { return d.p.features }

// Describe implements [vfio.Describer].
func (d *Device) Describe() vfio.Info { return vfio.Info{Driver: d.p.name, Format: "sim"} }

// Verify implements [Verifier]. Many drivers load a truncated state without a
// word (mlx5, virtio, QAT, pds, xe), so a device that is not [Options.Strict] may well
// be RUNNING while Verify fails.
func (d *Device) Verify() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loaded != nil {
		return fmt.Errorf("%s: verify: %w", d.name, d.loaded)
	}
	return nil
}

// Found reports whether the device is one that another process has left, in the file of
// [Options.Keep].
func (d *Device) Found() bool { return d.found }

// lock takes the driver's state lock and then the device's own, unless the
// device is closed.
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
	d.end()
	d.state = vfio.Running
	d.loaded = errNothingLoaded
	d.renew()
	return d.changed("reset", Event{From: from, To: vfio.Running, Reset: true})
}

// breakDown puts the device into ERROR.
func (d *Device) breakDown() error {
	from := d.state
	d.end()
	d.state = vfio.StateError
	d.im.run(time.Now(), false)
	return d.changed("fault", Event{From: from, To: vfio.StateError})
}

// changed keeps what has become of the device, and then tells of it. In this order
// a process that is killed in between leaves a change that no line tells of, which
// the next one's first line makes up for; in the other one, a line of a change that
// the device never made.
func (d *Device) changed(kind string, e Event) error {
	err := d.keep()
	d.happened(kind, e)
	return err
}

// end ends the session, if there is one, as a reset of the device does, and wakes what waits
// for it.
func (d *Device) end() {
	if d.sess != nil && d.sess.err == nil {
		d.sess.err = fmt.Errorf("%w: %w", vfio.ErrSessionLost, syscall.ENODEV)
	}
	d.sess = nil
	d.rouse()
}

func (d *Device) rouse() {
	close(d.wake)
	d.wake = make(chan struct{})
}

// Close implements [vfio.Device]. It disables the session, and is the last close of
// a simulated device unless that is kept, as if somebody else held it too.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.end()
	d.im.run(time.Now(), false)
	if d.file == nil {
		return nil
	}
	d.write("close", Event{From: d.state, To: d.state})
	return d.file.close()
}
