package sim

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// SetState implements [vfio.Device]. It walks as the kernel does: each arc
// either happens or does not, and those before a failed one stay done.
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
		if err = d.arc(next); err != nil {
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

// arc takes the device to a neighbouring state. What the driver does before
// its ioctl returns takes time; other calls see the old state meanwhile, and a
// reset may come between.
func (d *Device) arc(to vfio.State) error {
	from, sess := d.state, d.sess
	err := d.may(to)
	if err == nil {
		if d.sleep(d.work(to)); d.closed {
			err = os.ErrClosed
		} else if d.sess != sess || d.state != from {
			err = fmt.Errorf("%w: %w", vfio.ErrSessionLost, syscall.ENODEV)
		}
	}
	if err != nil {
		d.happened("set", Event{From: from, To: to, Err: err})
		return err
	}
	d.enter(to)
	return d.changed("set", Event{From: from, To: to})
}

// may says why the driver refuses the arc.
func (d *Device) may(to vfio.State) error {
	if f := d.faults.arc(d.state, to); f != nil {
		return d.faults.strike(f).Errno
	}
	if d.state != vfio.Resuming {
		return nil
	}
	if err := d.sess.load.stop(); err != nil || !d.opts.Strict {
		return err
	}
	if err := d.sess.load.verify(); err != nil {
		return rejected(syscall.EINVAL, err)
	}
	return nil
}

// work is how long the arc takes.
func (d *Device) work(to vfio.State) time.Duration {
	switch {
	case to == vfio.StopCopy:
		return d.opts.Stop + d.moving(to)
	case to == vfio.Running && d.state != vfio.PreCopy:
		return d.opts.Start + d.moving(to)
	}
	return d.moving(to)
}

// moving is the part of it that depends on the state's size: a driver that does
// not save or load beside its owner does so here.
func (d *Device) moving(to vfio.State) time.Duration {
	switch {
	case d.state == vfio.Resuming && d.p.loads == atStop:
		return timeFor(d.opts.LoadRate, d.sess.load.pos)
	case d.state == vfio.Resuming:
		return max(0, time.Until(d.sess.busy))
	case d.p.async || !to.Saving():
		return 0
	case to == vfio.StopCopy || !d.state.Saving() && d.p.rounds != headOnly:
		return timeFor(d.opts.SaveRate, d.opts.Size)
	}
	return 0
}

// sleep lets go of the device's own lock, not of the driver's.
func (d *Device) sleep(t time.Duration) {
	if t <= 0 {
		return
	}
	d.mu.Unlock()
	time.Sleep(t)
	d.mu.Lock()
}

// enter is the arc itself.
func (d *Device) enter(to vfio.State) {
	now, from := time.Now(), d.state
	d.state = to
	d.im.run(now, d.guestRuns())
	if from == vfio.Resuming {
		d.commit()
	}
	switch {
	case vfio.OpensSession(from, to) && to == vfio.Resuming:
		d.sess = &session{d: d, load: newLoader(d.p, d.identity(), d.capacity())}
		d.loaded = errNothingLoaded
	case vfio.OpensSession(from, to):
		d.sess = &session{d: d, save: newSaver(d.p, d.identity(), d.im, &d.opts, now)}
	case !to.Saving():
		d.end()
	}
	if to == vfio.StopCopy {
		d.sess.save.end(now)
	}
	d.rouse()
}

// capacity is how long a stream the device can hold, 0 for any.
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

// commit makes what was loaded the device's state.
func (d *Device) commit() {
	l := d.sess.load
	if d.loaded = l.verify(); d.loaded == nil {
		d.adopt(l.im)
	}
}
