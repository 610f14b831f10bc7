package reader

import (
	"context"
	"sync/atomic"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
)

// sender puts queued chunks on one lane. Whichever lane is free next takes the
// next chunk, of whichever device.
type sender struct {
	lane  transport.Lane
	queue <-chan *transport.Chunk
	spare *transport.Chunk // for what is sent encoded
	codec codec.Policy
	wire  []atomic.Uint64 // payload bytes sent, by device
	work  context.Context // ends when the streams are abandoned
	post  func(any)
}

// laneFailed is the event of a sender that could not write.
type laneFailed struct{ err error }

// run sends until the queue is closed. An error is told at once; after it run
// goes on to release what is queued, so that nobody waits for a chunk that
// never comes back.
func (s *sender) run() {
	defer s.spare.Release()
	var failed error
	for c := range s.queue {
		if failed == nil {
			if failed = s.send(c); failed != nil {
				s.post(laneFailed{failed})
			}
		}
		c.Release()
	}
	if failed == nil && s.work.Err() == nil {
		if err := s.lane.CloseWrite(); err != nil { // Close would wait for the peer to read all
			s.post(laneFailed{err})
		}
	}
}

func (s *sender) send(c *transport.Chunk) error {
	out := c.EncodeTo(s.spare, s.codec)
	if err := out.WriteFrame(s.lane); err != nil {
		return err
	}
	s.wire[out.Device].Add(uint64(out.WireLen))
	return nil
}
