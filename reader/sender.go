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

// sender puts queued chunks on one lane. Whichever lane is free next takes the
// chunk whose turn it is, of whichever device.
type sender struct {
	number      int // of the lane
	lane        transport.Lane
	queue       *queue
	scratch     *wire.Chunk // for what is sent encoded
	codec       codec.Policy
	lanes       int       // that there are
	freeAt      time.Time // when the lane was done with a chunk: it waits since
	pace        *pacer
	paddingSize int  // bytes of padding that go at once
	noisy       bool // spare was filled with noise; what was encoded there since is as good
	devices     []*device
	start       time.Time
	spent       *laneTimes
	written     *atomic.Uint64 // bytes that were given to this lane, whether all have left or not
	lastSentAt  *atomic.Int64  // when a chunk was last written, in ns after start
	post        func(event)

	watched chan struct{} // closed when nobody watches the lane any more
}

// frameHead is the length of what is in front of a frame's payload.
const frameHead = len(wire.HeadRoom{})

// run sends until everything was applied, or the lane fails, or ctx ends, with which the streams
// are abandoned.
func (s *sender) run(ctx context.Context) {
	err := s.sendAll(ctx)
	s.scratch.Release()
	if err == nil && ctx.Err() == nil {
		err = s.lane.CloseWrite() // Close would wait for the peer to read all
	}
	if err != nil {
		s.lane.SetDeadline(time.Unix(1, 0))
		<-s.watched // who comes after this sender must not be told of this lane
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

// watch waits for the end of the lane, on which the destination says nothing. It is
// how a sender learns of it that has nothing to send. It ends with the lane.
func (s *sender) watch(context.Context) {
	defer close(s.watched)
	_, err := s.lane.Read(make([]byte, 1))
	switch err {
	case io.EOF: // TLS says so when it closes
		err = fmt.Errorf("%w: the destination hung up", transport.ErrPeerGone)
	case nil:
		err = fmt.Errorf("%w: the destination has sent something on a data lane", transport.ErrProtocol)
	}
	s.queue.failLane(s.number, err)
	s.lane.SetDeadline(time.Unix(1, 0)) // wakes a write
}

// sendPadding sends one frame of it.
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
	// Counted before it is written: the destination may have applied the last
	// chunk, and the migration be over, before Write returns here.
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
