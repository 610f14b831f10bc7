package sim

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// SetState implements [vfio.Device]. It walks as the kernel does: after a failed
// arc the device stays in the state that the last successful arc reached.
func (d *Device) SetState(to vfio.State) (vfio.Stream, error) {
	unlock, err := d.lock("set state")
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.stats.Sets++
	from := d.state
	path, err := vfio.Path(from, to, d.p.features)
	for _, next := range path {
		if err = d.takeArc(next); err != nil {
			break
		}
	}
	if err != nil {
		return nil, d.fail("set state", -1, &vfio.TransitionError{From: from, To: to, Now: d.state, Err: err})
	}
	if vfio.OpensSession(from, to) {
		d.stats.StreamsOpened++
		return d.sess, nil
	}
	return nil, nil
}

// takeArc takes the device to an adjacent state. It first waits as long as the
// driver's ioctl does. Meanwhile other calls see the old state, and a reset may
// happen.
func (d *Device) takeArc(to vfio.State) error {
	from, sess := d.state, d.sess
	err := d.checkArc(to)
	if err == nil {
		if d.sleep(d.arcTime(to)); d.closed {
			err = os.ErrClosed
		} else if d.sess != sess || d.state != from {
			err = fmt.Errorf("%w: %w", vfio.ErrSessionLost, syscall.ENODEV)
		}
	}
	if err != nil {
		d.logEvent("set", Event{From: from, To: to, Err: err})
		return err
	}
	d.enterState(to)
	return d.recordChange("set", Event{From: from, To: to})
}

// checkArc returns an error if the driver refuses the arc.
func (d *Device) checkArc(to vfio.State) error {
	if f := d.faults.forArc(d.state, to); f != nil {
		return d.faults.strike(f).Errno
	}
	if d.state != vfio.Resuming {
		return nil
	}
	if err := d.sess.load.checkStop(); err != nil || !d.opts.Strict {
		return err
	}
	if err := d.sess.load.verify(); err != nil {
		return rejected(syscall.EINVAL, err)
	}
	return nil
}

// arcTime returns how long the arc takes.
func (d *Device) arcTime(to vfio.State) time.Duration {
	switch {
	case to == vfio.StopCopy:
		return d.opts.Stop + d.moveTime(to)
	case to == vfio.Running && d.state != vfio.PreCopy:
		return d.opts.Start + d.moveTime(to)
	}
	return d.moveTime(to)
}

// moveTime returns the part of arcTime that depends on the state's size: a driver
// that does not save or load in the background does so in the arc.
func (d *Device) moveTime(to vfio.State) time.Duration {
	switch {
	case d.state == vfio.Resuming && d.p.loads == atStop:
		return timeFor(d.opts.LoadRate, d.sess.load.pos)
	case d.state == vfio.Resuming:
		return max(0, time.Until(d.sess.busyUntil))
	case d.p.async || !to.Saving():
		return 0
	case to == vfio.StopCopy || !d.state.Saving() && d.p.rounds != headOnly:
		return timeFor(d.opts.SaveRate, d.opts.Size)
	}
	return 0
}

// sleep releases the device's mutex meanwhile, but not the driver's state lock.
func (d *Device) sleep(t time.Duration) {
	if t <= 0 {
		return
	}
	d.mu.Unlock()
	time.Sleep(t)
	d.mu.Lock()
}

// enterState changes the state, and begins or ends the session.
func (d *Device) enterState(to vfio.State) {
	now, from := time.Now(), d.state
	d.state = to
	d.im.advance(now, d.guestRuns())
	if from == vfio.Resuming {
		d.commitLoaded()
	}
	switch {
	case vfio.OpensSession(from, to) && to == vfio.Resuming:
		d.sess = &session{d: d, load: newLoader(d.p, d.identity(), d.capacity())}
		d.loaded = errNothingLoaded
	case vfio.OpensSession(from, to):
		d.sess = &session{d: d, save: newSaver(d.p, d.identity(), d.im, &d.opts, now)}
	case !to.Saving():
		d.endSession()
	}
	if to == vfio.StopCopy {
		d.sess.save.planFinal(now)
	}
	d.wakeWaiting()
}

// capacity returns the length of the longest stream that the device can hold, 0
// for any.
func (d *Device) capacity() int64 {
	switch {
	case d.p.layout.lastLen() > 0:
		return 0
	case d.p.port > 0:
		return d.opts.Size
	default:
		return d.p.max
	}
}

// commitLoaded makes the loaded state the device's state.
func (d *Device) commitLoaded() {
	l := d.sess.load
	if d.loaded = l.verify(); d.loaded == nil {
		d.setImage(l.im)
	}
}
