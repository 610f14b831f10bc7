package writer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// receiver reads chunks from one data lane and delivers them.
type receiver struct {
	lane        transport.Lane
	arena       *wire.Arena
	scratch     *wire.Chunk // for payloads that arrive encoded
	devices     []*device
	codecs      [256]bool
	quit        <-chan struct{}   // closed when the streams are stopped
	read        *atomic.Uint64    // bytes that came over the lane, for ACKs
	notePadding func(n int) error // takes n bytes of padding
	local       bool              // the lane is within this host: it is never lost, and no chunk comes twice
	done        chan struct{}     // closed when it no longer uses the lane or any memory
	ended       bool              // the source has ended the lane; the loop owns this and lost
	lost        bool              // the lane is lost, and not replaced yet
}

// Read reads the lane and counts the bytes. Their memory was promised, so that a slow device does
// not stop the reads of a lane: bytes that ACK.Read does not count are in flight.
func (r *receiver) Read(p []byte) (int, error) {
	n, err := r.lane.Read(p)
	r.read.Add(uint64(n))
	return n, err
}

// receive waits for the receiver before it, if there is one, and receives. It ends with the lane,
// or with ctx: then the streams are stopped.
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

// isLost reports whether the network has ended the lane, or a later lane has replaced it.
func (r *receiver) isLost(f *transport.Fault) bool { return !r.local && wire.IsLaneEnd(f) }

// receiveAll receives until the lane ends between two frames. It reports whether it did, or the
// fault. If a payload was discarded, the code that discarded it reports the fault.
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

// readPadding discards one frame of padding.
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
		return err // every claim has memory set aside, so this is a bug
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

// claim reserves the chunk's place. If another receiver is reading the same chunk, the source has
// aborted that receiver's lane: claim wakes it, and waits until it has filled the place or left it.
// No two receivers wait for each other: a receiver that waits has no place.
func (r *receiver) claim(m *merge, head wire.ChunkHead) error {
	for {
		rival, err := m.claim(head, r)
		if r.local && (rival != nil || err == errDuplicate) {
			return fmt.Errorf("%w: chunk %d was sent twice", transport.ErrProtocol, head.Seq)
		}
		if rival == nil {
			return err
		}
		rival.lane.SetDeadline(aLongTimeAgo)
		<-rival.done
	}
}

// awaitSplice leaves the payload in the lane for the loader, which splices it, and waits until that
// is done. Lanes cannot wait for each other in a circle. The source gives chunks to its lanes one
// after the other, and those of a device in order. So of all chunks that are not applied yet, the
// one that left first is at the head of its lane, and the next of its device.
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

// errDiscarded ends a receiver whose payload was discarded. The code that discarded it reports the
// fault.
var errDiscarded = errors.New("payload was discarded")

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
