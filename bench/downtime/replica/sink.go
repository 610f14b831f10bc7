package replica

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/migpipe/migpipe/vfio"
)

// sink is the destination of a migration.
type sink struct {
	job     *Job
	main    *channel
	ack     bool
	streams []vfio.Stream
}

// enter takes the devices to RESUMING (load_setup).
func (s *sink) enter() error {
	s.streams = make([]vfio.Stream, len(s.job.Sinks))
	for i, d := range s.job.Sinks {
		stream, err := d.SetState(vfio.Resuming)
		if err != nil {
			return err
		}
		s.streams[i] = stream
	}
	return nil
}

// load writes the main channel's packets into the devices, until each has got the tag that
// ends it.
func (s *sink) load(until uint16) error {
	buf := make([]byte, bufferSize)
	for had := map[uint16]int{}; had[until] < len(s.streams); {
		h, err := s.main.next(len(s.streams))
		if err != nil {
			return err
		}
		had[h.tag]++
		switch {
		case h.tag == tagData:
			err = s.take(h, buf[:h.length])
		case h.tag == tagInitial && s.ack && had[tagInitial] == len(s.streams):
			err = s.main.tell(tagAck, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sink) take(h header, buf []byte) error {
	if _, err := io.ReadFull(s.main.lane, buf); err != nil {
		return err
	}
	_, err := s.streams[h.device].Write(buf)
	return err
}

// loadThreads receives on all channels and sorts each device's packets in a queue without
// bound. A thread for each device writes them.
func (s *sink) loadThreads(ctx context.Context, channels []*channel) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queues := make([]*queue, len(s.streams))
	for i := range queues {
		queues[i] = &queue{held: map[uint64]packet{}, more: make(chan struct{}, 1)}
	}
	n := len(s.streams)
	return parallel(n+len(channels), func(i int) error {
		var err error
		if i < n {
			err = s.loadThread(ctx, i, queues[i])
		} else {
			err = channels[i-n].receiveAll(queues)
		}
		if err != nil {
			cancel()
		}
		return err
	})
}

func (s *sink) loadThread(ctx context.Context, i int, q *queue) error {
	for index := uint64(0); ; index++ {
		p, err := q.take(ctx, index)
		if err != nil {
			return err
		}
		_, err = s.streams[i].Write(p.frame[headerSize : headerSize+p.length])
		frames.Put(p.frame)
		if err != nil || p.tag == tagEnd {
			return err
		}
	}
}

// receiveAll queues packets until the source has ended the channel.
func (c *channel) receiveAll(queues []*queue) error {
	for {
		h, err := c.next(len(queues))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		p := packet{h, frames.Get().(*frame)}
		if _, err := io.ReadFull(c.lane, p.frame[headerSize:headerSize+h.length]); err != nil {
			return err
		}
		queues[h.device].put(p)
	}
}

// queue holds one device's packets, which arrive in any order.
type queue struct {
	mu   sync.Mutex
	held map[uint64]packet
	more chan struct{} // holds a token when take may find a new packet
}

func (q *queue) put(p packet) {
	q.mu.Lock()
	q.held[p.index] = p
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *queue) take(ctx context.Context, index uint64) (packet, error) {
	for {
		q.mu.Lock()
		p, ok := q.held[index]
		delete(q.held, index)
		q.mu.Unlock()
		if ok {
			return p, nil
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return packet{}, context.Cause(ctx)
		}
	}
}

// start runs the devices, one after another, as QEMU calls its handlers of the run state.
func (s *sink) start() error {
	for _, to := range []vfio.State{vfio.RunningP2P, vfio.Running} {
		for i, d := range s.job.Sinks {
			if _, err := d.SetState(to); err != nil {
				return fmt.Errorf("start device %d: %w", i, err)
			}
		}
	}
	return nil
}

// confirm reports RUNNING to the source, and ends the streams.
func (s *sink) confirm() error {
	for _, stream := range s.streams {
		stream.Close()
	}
	if err := s.main.tell(tagDone, 0); err != nil {
		return err
	}
	s.main.lane.CloseWrite()
	s.main.lane.Read(make([]byte, 1)) // until the source has read it, and closes
	return nil
}
