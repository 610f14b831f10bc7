package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// Job is a migration of devices, each from Sources to the same place in Sinks.
// This process holds both.
type Job struct {
	Sources, Sinks []vfio.Device
	Dialer         transport.Dialer
	Listener       transport.Listener
	Paused         func() // called when the guest would be paused
}

// Serial migrates over one channel, one device's stream after the other. With ack the guest
// runs on until the destination has written all initial bytes (switchover-ack).
func (j *Job) Serial(ctx context.Context, ack bool) error {
	return j.run(ctx, 1,
		func(_ context.Context, channels []*channel) error {
			s := &source{job: j, main: channels[0]}
			return steps(s.enter, s.initial, func() error { return s.approved(ack) },
				s.pause, s.stop, s.drainAll, s.finish)
		},
		func(_ context.Context, channels []*channel) error {
			d := &sink{job: j, main: channels[0], ack: ack}
			return steps(d.enter, func() error { return d.load(tagEnd) }, d.start, d.confirm)
		})
}

// Multifd sends the initial bytes as Serial with ack does. It sends the rest over extra
// channels, with a save thread and a load thread for each device.
func (j *Job) Multifd(ctx context.Context, channels int) error {
	return j.run(ctx, 1+channels,
		func(ctx context.Context, channels []*channel) error {
			s := &source{job: j, main: channels[0]}
			return steps(s.enter, s.initial, func() error { return s.approved(true) },
				s.pause, func() error { return s.saveThreads(ctx, channels[1:]) }, s.finish)
		},
		func(ctx context.Context, channels []*channel) error {
			d := &sink{job: j, main: channels[0], ack: true}
			return steps(d.enter, func() error { return d.load(tagInitial) },
				func() error { return d.loadThreads(ctx, channels[1:]) }, d.start, d.confirm)
		})
}

// run connects both sides and runs them to their ends. If one fails, it wakes the other.
func (j *Job) run(ctx context.Context, channels int, source, sink func(context.Context, []*channel) error) error {
	if err := j.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	either := func(side string, open func(context.Context, int) ([]*channel, error), do func(context.Context, []*channel) error) error {
		lanes, err := open(ctx, channels)
		defer closeAll(lanes)
		if err == nil {
			defer context.AfterFunc(ctx, func() { wakeAll(lanes) })()
			err = do(ctx, lanes)
		}
		if err != nil {
			cancel()
			return fmt.Errorf("replica: %s: %w", side, err)
		}
		return nil
	}
	return parallel(2, func(i int) error {
		if i == 0 {
			return either("source", j.dial, source)
		}
		return either("destination", j.accept, sink)
	})
}

func (j *Job) check() error {
	for i, d := range j.Sources {
		if f := d.Features(); !f.PreCopy || !f.P2P {
			return fmt.Errorf("replica: device %d has not PRE_COPY and P2P", i)
		}
	}
	if len(j.Sources) != len(j.Sinks) {
		return fmt.Errorf("replica: %d devices to %d", len(j.Sources), len(j.Sinks))
	}
	return nil
}

// dial opens the channels. The first byte of each is its number.
func (j *Job) dial(ctx context.Context, n int) (list []*channel, err error) {
	for i := range n {
		lane, err := j.Dialer.Dial(ctx)
		if err != nil {
			return list, err
		}
		list = append(list, newChannel(lane))
		if _, err := lane.Write([]byte{byte(i)}); err != nil {
			return list, err
		}
	}
	return list, nil
}

func (j *Job) accept(ctx context.Context, n int) ([]*channel, error) {
	list := make([]*channel, n)
	for range n {
		lane, err := j.Listener.Accept(ctx)
		if err != nil {
			return list, err
		}
		var number [1]byte
		lane.SetDeadline(time.Now().Add(transport.HandshakeTimeout))
		if _, err := io.ReadFull(lane, number[:]); err != nil || int(number[0]) >= n {
			lane.Close()
			return list, errors.Join(err, fmt.Errorf("a channel calls itself %d of %d", number[0], n))
		}
		lane.SetDeadline(time.Time{})
		list[number[0]] = newChannel(lane)
	}
	return list, nil
}

func closeAll(list []*channel) {
	parallel(len(list), func(i int) error {
		if list[i] != nil {
			list[i].lane.Close()
		}
		return nil
	})
}

func wakeAll(list []*channel) {
	for _, c := range list {
		c.lane.SetDeadline(time.Unix(1, 0))
	}
}

// steps runs one step after the other until one fails.
func steps(list ...func() error) error {
	for _, step := range list {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// parallel runs do for 0 to n-1 at once and joins them.
func parallel(n int, do func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
