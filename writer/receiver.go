package writer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// receiver takes chunks from one data lane to where they belong.
type receiver struct {
	lane        transport.Lane
	arena       *wire.Arena
	scratch     *wire.Chunk // for payloads that arrive encoded
	devices     []*device
	codecs      [256]bool
	quit        <-chan struct{}   // closed when the streams are abandoned
	read        *atomic.Uint64    // bytes that came over the lane, as ACK tells them
	notePadding func(n int) error // that so much padding has come
	local       bool              // the lane is within this host: it is never lost, and nothing is sent twice
	done        chan struct{}     // closed when it has let go of the lane and of all memory
	ended       bool              // the source has ended the lane; the loop's, as is
	lost        bool              // the lane is lost, and has no successor yet
}

// Read reads the lane and counts what comes. The memory that it goes into was promised, so
// that no slow device keeps a lane from being read: what ACK.Read leaves out is on its way.
func (r *receiver) Read(p []byte) (int, error) {
	n, err := r.lane.Read(p)
	r.read.Add(uint64(n))
	return n, err
}

// receive takes the place of the receiver before it, if there is one, and receives. It ends with
// the lane, or with ctx, with which the streams are abandoned.
func (r *receiver) receive(ctx context.Context, before *receiver, post func(event)) {
	r.quit = ctx.Done()
	if before != nil {
		<-before.done
		before.lane.Close()
	}
	r.read.Store(0)
	var err error
	if r.scratch, err = r.arena.TryGet(); err != nil {
		panic("writer: the arena has no chunk left for a lane")
	}
	ended, fault := r.receiveAll()
	close(r.done)
	if ended || fault != nil {
		post(laneEnded{r, fault, fault != nil && r.isLost(fault)})
	}
}

// lost reports whether the network has ended the lane, or a successor of its receiver.
func (r *receiver) isLost(f *transport.Fault) bool { return !r.local && wire.Ended(f) }

// run receives until the lane ends between two frames. It reports whether it did,
// or why not; where a payload was dropped, whoever dropped it says why.
func (r *receiver) receiveAll() (ended bool, fault *transport.Fault) {
	defer r.scratch.Release()
	var room wire.HeadRoom
	for {
		head, err := wire.ReadChunkHead(r, &room)
		if err == io.EOF {
			return true, nil
		}
		switch {
		case err != nil:
		case head.Padding:
			err = r.readPadding(head)
		default:
			err = r.readChunk(head)
		}
		if err == errDiscarded {
			return false, nil
		}
		if err != nil {
			return false, r.faultOf(head, err)
		}
	}
}

// pad drops what only fills the lane.
func (r *receiver) readPadding(head wire.ChunkHead) error {
	if err := r.scratch.Discard(r, head); err != nil {
		return err
	}
	return r.notePadding(int(head.WireLen))
}

func (r *receiver) readChunk(head wire.ChunkHead) error {
	if int(head.Device) >= len(r.devices) {
		return fmt.Errorf("%w: chunk for device %d of %d", transport.ErrProtocol, head.Device, len(r.devices))
	}
	d := r.devices[head.Device]
	if !r.codecs[head.Codec] || head.Unchecked && !d.splice {
		return fmt.Errorf("%w: chunk encoded by %v, which was not agreed on", transport.ErrProtocol, head.Codec)
	}
	if int(head.RawLen) > r.arena.ChunkSize() {
		return fmt.Errorf("%w: chunk of %d bytes, negotiated %d", transport.ErrProtocol, head.RawLen, r.arena.ChunkSize())
	}
	m := d.merge
	switch err := r.claim(m, head); {
	case err == errDuplicate:
		return r.scratch.Discard(r, head)
	case err != nil:
		return err
	}
	c, err := r.arena.TryGet()
	if err != nil {
		return err // every claim stands for memory, so this is a defect here
	}
	d.received.Add(uint64(head.WireLen))
	if head.Unchecked {
		return r.awaitSplice(m, c, head)
	}
	if err := c.ReadPayload(r, head, r.scratch); err != nil {
		c.Release()
		m.unclaim(head.Seq)
		return err
	}
	m.deliver(c)
	return nil
}

// claim reserves the chunk's place. Whoever is reading the same chunk does so on a
// lane that the source has given up, and is woken: it fills the place or leaves it.
// No two receivers wait for each other, since who waits has no place.
func (r *receiver) claim(m *merge, head wire.ChunkHead) error {
	for {
		rival, err := m.claim(head, r)
		if r.local && (rival != nil || err == errDuplicate) {
			return fmt.Errorf("%w: chunk %d was sent twice", transport.ErrProtocol, head.Seq)
		}
		if rival == nil {
			return err
		}
		rival.lane.SetDeadline(time.Unix(1, 0))
		<-rival.done
	}
}

// await leaves the payload in the lane for the loader to splice it on, and
// waits until that is done. Lanes cannot wait for each other in a circle: the
// source takes chunks for its lanes one after the other, and those of a device in
// order. So of all chunks that were not applied yet, the one it took first is at
// the head of its lane, and the next of its device.
func (r *receiver) awaitSplice(m *merge, c *wire.Chunk, head wire.ChunkHead) error {
	a := c.Await(r.lane, head)
	m.deliver(c)
	select {
	case <-a.Released():
	case <-r.quit:
		return errDiscarded
	}
	if !a.Whole() {
		return errDiscarded
	}
	return nil
}

// errDropped ends a receiver whose payload nobody takes any more. Why, whoever
// dropped it says.
var errDiscarded = errors.New("payload was dropped")

func (r *receiver) faultOf(head wire.ChunkHead, err error) *transport.Fault {
	f := &transport.Fault{Code: transport.CodeOf(err), Err: fmt.Errorf("data lane: %w", err)}
	if errors.Is(err, wire.ErrArenaFull) {
		f.Code = transport.CodeInternal
	}
	if head.RawLen > 0 && int(head.Device) < len(r.devices) {
		f.Device, f.Offset = r.devices[head.Device].Name, head.Offset
	}
	return f
}
