package reader

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
)

// sender puts queued chunks on one lane. Whichever lane is free next takes the
// chunk whose turn it is, of whichever device.
type sender struct {
	lane  transport.Lane
	queue *queue
	spare *transport.Chunk // for what is sent encoded
	codec codec.Policy
	pace  *pacer
	frame int             // bytes of padding that go at once
	noisy bool            // spare was filled with noise; what was encoded there since is as good
	wire  []atomic.Uint64 // payload bytes given to a lane, by device
	start time.Time
	sent  *atomic.Int64   // when a chunk was last written, in ns after start
	work  context.Context // ends when the streams are abandoned
	post  func(any)
}

// laneFailed is the event of a sender that could not write.
type laneFailed struct{ err error }

// run sends until the queue has nothing more, or the lane fails.
func (s *sender) run() {
	defer s.spare.Release()
	for c := s.queue.take(); c != nil; c = s.queue.take() {
		var err error
		if c == padding {
			err = s.sendPadding()
		} else {
			err = s.send(c)
			s.queue.release(int(c.Device), c)
		}
		if err != nil {
			s.post(laneFailed{err})
			return
		}
	}
	if s.work.Err() == nil {
		if err := s.lane.CloseWrite(); err != nil { // Close would wait for the peer to read all
			s.post(laneFailed{err})
		}
	}
}

// sendPadding sends one frame of it.
func (s *sender) sendPadding() error {
	if err := s.pace.wait(s.work, s.frame); err != nil {
		return err
	}
	if !s.noisy {
		s.spare.Noise()
		s.noisy = true
	}
	return s.spare.WritePadding(s.lane, s.frame)
}

func (s *sender) send(c *transport.Chunk) error {
	out := c.EncodeTo(s.spare, s.codec)
	if err := s.pace.wait(s.work, int(out.WireLen)); err != nil {
		return err
	}
	// Counted before it is written: the destination may have applied the last
	// chunk, and the migration be over, before Write returns here.
	s.wire[out.Device].Add(uint64(out.WireLen))
	if err := out.WriteFrame(s.lane); err != nil {
		return err
	}
	s.sent.Store(int64(time.Since(s.start)))
	return nil
}
