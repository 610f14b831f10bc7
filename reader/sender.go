package reader

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// sender sends queued chunks on one lane. The lane that is free next takes the next chunk, of any
// device.
type sender struct {
	number      int // of the lane
	lane        transport.Lane
	queue       *queue
	scratch     *wire.Chunk // for encoded chunks
	codec       codec.Policy
	lanes       int       // number of all lanes
	freeAt      time.Time // when the lane finished a chunk: it is idle since
	pace        *pacer
	paddingSize int  // bytes in one frame of padding
	noisy       bool // scratch holds noise: encoded bytes written there later serve as well
	devices     []*device
	start       time.Time
	spent       *laneTimes
	written     *atomic.Uint64 // bytes that were given to this lane
	lastSentAt  *atomic.Int64  // when a chunk was last written, in ns after start
	post        func(event)

	watched chan struct{} // closed when the watcher of the lane has ended
}

// frameHead is the length of the head in front of a frame's payload.
const frameHead = len(wire.HeadRoom{})

// run sends until everything was applied, or the lane fails, or ctx ends: then the streams are
// stopped.
func (s *sender) run(ctx context.Context) {
	err := s.sendAll(ctx)
	s.scratch.Release()
	if err == nil && ctx.Err() == nil {
		err = s.lane.CloseWrite() // Close would wait for the peer to read all
	}
	if err != nil {
		s.lane.SetDeadline(aLongTimeAgo)
		<-s.watched // the watcher must not fail the lane of the next sender
		s.post(laneFailed{s.number, err})
	}
}

func (s *sender) sendAll(ctx context.Context) error {
	for {
		c, err := s.queue.take(s.number)
		switch {
		case c == nil:
			return err
		case c == padding:
			err = s.sendPadding(ctx)
		default:
			err = s.send(ctx, c)
			s.queue.finishSend(c)
		}
		if err != nil {
			return err
		}
	}
}

// watch waits for the end of the lane, on which the destination sends nothing. A sender without
// chunks learns of the end by it. It ends with the lane.
func (s *sender) watch(context.Context) {
	defer close(s.watched)
	_, err := s.lane.Read(make([]byte, 1))
	switch err {
	case io.EOF: // as TLS closes a lane
		err = fmt.Errorf("%w: the destination hung up", transport.ErrPeerGone)
	case nil:
		err = fmt.Errorf("%w: the destination has sent something on a data lane", transport.ErrProtocol)
	}
	s.queue.failLane(s.number, err)
	s.lane.SetDeadline(aLongTimeAgo) // wakes a write
}

// sendPadding sends one frame of padding.
func (s *sender) sendPadding(ctx context.Context) error {
	if err := s.pace.wait(ctx, s.paddingSize); err != nil {
		return err
	}
	if !s.noisy {
		s.scratch.Noise()
		s.noisy = true
	}
	s.written.Add(uint64(frameHead + s.paddingSize))
	return s.scratch.WritePadding(s.lane, s.paddingSize)
}

func (s *sender) send(ctx context.Context, c *wire.Chunk) error {
	begun := time.Now()
	out, choice := c.EncodeTo(s.scratch, s.codec)
	encoded := time.Now()
	s.spent.encoded(encoded.Sub(begun))
	if err := s.pace.wait(ctx, int(out.WireLen)); err != nil {
		return err
	}
	// Count before the write: the destination may apply the last chunk, and the
	// migration may end, before Write returns here.
	s.devices[out.Device].sent.Add(uint64(out.WireLen))
	s.written.Add(uint64(frameHead) + uint64(out.WireLen))
	if err := out.WriteFrame(s.lane); err != nil {
		return err
	}
	written := time.Now()
	s.spent.wrote(written.Sub(encoded))
	s.lastSentAt.Store(int64(written.Sub(s.start)))
	s.codec.Observe(codec.Result{Choice: choice, Raw: int(out.RawLen), Wire: int(out.WireLen), Lanes: s.lanes,
		Encode: encoded.Sub(begun), Write: written.Sub(encoded), Idle: begun.Sub(s.freeAt)})
	s.freeAt = written
	return nil
}
