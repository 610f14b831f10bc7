package replica

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// idle is the pause before the next look at a device without readable bytes.
const idle = time.Millisecond

// source is the source of a migration.
type source struct {
	job     *Job
	main    *channel
	streams []vfio.Stream
}

// enter takes the devices to PRE_COPY (save_setup).
func (s *source) enter() error {
	s.streams = make([]vfio.Stream, len(s.job.Sources))
	for i, d := range s.job.Sources {
		stream, err := d.SetState(vfio.PreCopy)
		if err != nil {
			return err
		}
		s.streams[i] = stream
	}
	return nil
}

// initial sends the initial bytes, one device after another (qemu_savevm_state_iterate
// finishes one before the next).
func (s *source) initial() error {
	for i, stream := range s.streams {
		for {
			err := s.drain(i)
			if !errors.Is(err, vfio.ErrDrained) {
				return err
			}
			p, err := stream.Pending()
			if err != nil {
				return err
			}
			if p.Initial == 0 {
				break
			}
			time.Sleep(idle)
		}
		if err := s.main.tell(tagInitial, i); err != nil {
			return err
		}
	}
	return nil
}

// drain sends a device's bytes until there are none: ErrDrained, or io.EOF.
func (s *source) drain(i int) error {
	for {
		n, err := s.streams[i].Read(s.main.buf[headerSize:])
		if n > 0 {
			h := header{tag: tagData, device: uint16(i), length: uint32(n)}
			err = errors.Join(s.main.sendFrame(h, s.main.buf), err)
		}
		if err != nil {
			return err
		}
	}
}

// approved waits for the destination's ack, if ask is set.
func (s *source) approved(ask bool) error {
	if !ask {
		return nil
	}
	return s.main.await(tagAck)
}

// pause stops the guest, and moves the devices to P2P, one after another, as QEMU calls its
// handlers of the run state.
func (s *source) pause() error {
	s.job.Paused()
	return s.setAll(vfio.PreCopyP2P)
}

func (s *source) stop() error { return s.setAll(vfio.StopCopy) }

func (s *source) setAll(to vfio.State) error {
	for _, d := range s.job.Sources {
		if _, err := d.SetState(to); err != nil {
			return err
		}
	}
	return nil
}

// drainAll sends one device's rest after another's.
func (s *source) drainAll() error {
	for i := range s.streams {
		if err := s.drain(i); err != io.EOF {
			return err
		}
		if err := s.main.tell(tagEnd, i); err != nil {
			return err
		}
	}
	return nil
}

// packet is what a save thread hands to a free channel.
type packet struct {
	header
	frame *frame
}

// frame has room for a packet.
type frame [headerSize + bufferSize]byte

// frames are the free frames.
var frames = sync.Pool{New: func() any { return new(frame) }}

// saveThreads stops the devices and sends their rests, all at once.
func (s *source) saveThreads(ctx context.Context, channels []*channel) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	packets := make(chan packet)
	var saving sync.WaitGroup
	saving.Add(len(s.streams))
	go func() { saving.Wait(); close(packets) }() // ends with the save threads
	n := len(s.streams)
	return parallel(n+len(channels), func(i int) error {
		var err error
		if i < n {
			defer saving.Done()
			err = s.saveThread(ctx, i, packets)
		} else {
			err = channels[i-n].sendAll(packets)
		}
		if err != nil {
			cancel()
		}
		return err
	})
}

func (s *source) saveThread(ctx context.Context, i int, packets chan<- packet) error {
	if _, err := s.job.Sources[i].SetState(vfio.StopCopy); err != nil {
		return err
	}
	for index := uint64(0); ; index++ {
		frame := frames.Get().(*frame)
		n, err := s.streams[i].Read(frame[headerSize:])
		p := packet{header{tagData, uint16(i), uint32(n), index}, frame}
		if err == io.EOF {
			p.tag = tagEnd
		} else if err != nil {
			return err
		}
		select {
		case packets <- p:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.tag == tagEnd {
			return nil
		}
	}
}

func (c *channel) sendAll(packets <-chan packet) error {
	for p := range packets {
		err := c.sendFrame(p.header, p.frame[:])
		frames.Put(p.frame)
		if err != nil {
			return err
		}
	}
	return c.lane.CloseWrite()
}

// finish waits until the guest runs at the destination, and frees the devices.
func (s *source) finish() error {
	if err := s.main.await(tagDone); err != nil {
		return err
	}
	for i, stream := range s.streams {
		if _, err := s.job.Sources[i].SetState(vfio.Stop); err != nil {
			return err
		}
		stream.Close()
	}
	return nil
}
