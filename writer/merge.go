package writer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/migpipe/migpipe/internal/occupancy"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// merge puts one device's chunks back in order. They arrive over several lanes in any order. It
// holds no more of them than the window promised.
type merge struct {
	credit *credit
	device int
	limit  uint64 // bytes of the stream: Options.MaxState

	mu        sync.Mutex
	slots     []slot        // ring: chunk seq is at seq % len
	next      uint64        // the chunk to be applied next
	bytes     uint64        // applied so far
	took      time.Duration // time that the device needed for these
	delivered uint64        // chunks delivered so far
	used      uint64        // no chunk with this number or a higher one was claimed
	offset    uint64        // of the window: bytes promised
	end       *wire.End
	ready     chan struct{} // holds a token when take may find a chunk or END
	inOrderTo uint64        // all chunks with lower numbers have come, this one has not
	discarded bool          // all chunks were freed
	gauge     occupancy.Gauge
}

// slot is the place of one promised chunk.
type slot struct {
	claimed bool      // until it was applied
	by      *receiver // reads it, nil before and after that
	chunk   *wire.Chunk
}

// newMerge makes a merge with a slot for every chunk of the memory: one device may be promised all
// of them, when the others have ended.
func newMerge(c *credit, device int, most uint64) *merge {
	return &merge{credit: c, device: device, limit: most, slots: make([]slot, c.chunks), ready: make(chan struct{}, 1), gauge: occupancy.NewGauge()}
}

// window is the promise to the source. Its offset has room for each chunk at full length, so that
// the number of chunks alone decides. It never shrinks: short chunks revoke no promise. The caller
// holds the lock.
func (m *merge) window() wire.Window {
	seq := m.credit.promised(m.device)
	m.offset = max(m.offset, m.bytes+(seq-m.next)*m.credit.chunkSize)
	return wire.Window{Seq: seq, Offset: m.offset}
}

// errDuplicate says that a chunk came before: its source lost the lane that brought it, and could
// not know.
var errDuplicate = errors.New("the chunk has already come")

// claim checks a header against the promise before its chunk takes memory. If another receiver is
// reading the same chunk, claim returns that one: the source has aborted its lane.
func (m *merge) claim(h wire.ChunkHead, by *receiver) (rival *receiver, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end, window := h.Offset+uint64(h.RawLen), m.window()
	switch {
	case h.Seq < m.next:
		return nil, errDuplicate
	case end > m.limit:
		return nil, &transport.Fault{Code: transport.CodeLimit, Err: fmt.Errorf("stream reaches %d bytes, the limit is %d", end, m.limit)}
	case h.Seq >= window.Seq || end > window.Offset:
		return nil, fmt.Errorf("%w: chunk %d up to byte %d, promised are chunks %d to %d up to byte %d",
			transport.ErrProtocol, h.Seq, end, m.next, window.Seq-1, window.Offset)
	}
	s := &m.slots[h.Seq%uint64(len(m.slots))]
	if s.by != nil {
		return s.by, nil
	}
	if s.claimed {
		return nil, errDuplicate
	}
	s.claimed, s.by = true, by
	m.used = max(m.used, h.Seq+1)
	return nil, nil
}

// unclaim returns a claim: the chunk did not come whole, and is sent again.
func (m *merge) unclaim(seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots[seq%uint64(len(m.slots))] = slot{}
}

// deliver hands over a claimed chunk, verified and decoded.
func (m *merge) deliver(c *wire.Chunk) {
	m.mu.Lock()
	s := &m.slots[c.Seq%uint64(len(m.slots))]
	s.chunk, s.by = c, nil
	m.delivered++
	m.advanceInOrder()
	first := c.Seq == m.next
	m.unlock()
	if first {
		m.signal()
	}
}

// setEnd takes END, and reports whether it is new: a source that does not know whether END arrived
// sends it again. Promises beyond END go to other devices. Chunks that have come stay in
// memory also beyond END.
func (m *merge) setEnd(end *wire.End) (fresh bool, err error) {
	m.mu.Lock()
	defer m.unlock()
	if m.end != nil && *m.end != *end {
		return false, fmt.Errorf("%w: END was sent twice, as %d and %d bytes in %d and %d chunks", transport.ErrProtocol, m.end.Bytes, end.Bytes, m.end.Chunks, end.Chunks)
	}
	if m.end != nil {
		return false, nil
	}
	m.end = end
	m.credit.endDevice(m.device, end.Chunks, m.used)
	m.signal()
	return true, nil
}

func (m *merge) signal() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// take returns the next chunk in order, or END when there are no more. It waits for either.
func (m *merge) take(ctx context.Context) (*wire.Chunk, *wire.End, error) {
	for {
		if ctx.Err() != nil { // no further chunk may be written
			return nil, nil, context.Cause(ctx)
		}
		if c, end := m.tryTake(); c != nil || end != nil {
			return c, end, nil
		}
		select {
		case <-m.ready:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

func (m *merge) tryTake() (*wire.Chunk, *wire.End) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.slots[m.next%uint64(len(m.slots))]
	if c := s.chunk; c != nil {
		s.chunk = nil
		return c, nil
	}
	if m.end != nil && m.next >= m.end.Chunks {
		return nil, m.end
	}
	return nil, nil
}

// markApplied moves on to the next chunk, after the memory of this one was freed.
func (m *merge) markApplied(n uint32, took time.Duration) {
	m.mu.Lock()
	defer m.unlock()
	m.slots[m.next%uint64(len(m.slots))] = slot{}
	m.next++
	m.bytes += uint64(n)
	m.took += took
	m.credit.returnChunk(m.device)
}

// hasEnd reports whether END has come.
func (m *merge) hasEnd() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.end != nil
}

// checkComplete returns the missing chunks when nothing more comes. END was received.
func (m *merge) checkComplete() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.delivered == m.end.Chunks {
		return nil
	}
	return fmt.Errorf("%d chunks arrived before the lanes ended, END says %d", m.delivered, m.end.Chunks)
}

// bytesApplied is how much was applied so far, in bytes.
func (m *merge) bytesApplied() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// status is the device's part of an ACK: the chunks that the source may free, and the window. idle
// says that no chunk waits to be applied.
func (m *merge) status() (ack wire.DeviceAck, idle bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	idle = m.slots[m.next%uint64(len(m.slots))].chunk == nil
	return wire.DeviceAck{Seq: m.next, Applied: m.bytes, LoadNS: m.took.Nanoseconds(), Window: m.window()}, idle
}

// discardAll frees chunks that were delivered and will not be applied.
func (m *merge) discardAll() {
	m.mu.Lock()
	defer m.unlock()
	m.discarded = true
	for i := range m.slots {
		if c := m.slots[i].chunk; c != nil {
			c.Release()
		}
		m.slots[i] = slot{}
	}
}

// advanceInOrder takes that a chunk has come. The caller holds the lock.
func (m *merge) advanceInOrder() {
	n := uint64(len(m.slots))
	for m.inOrderTo < m.next+n && m.slots[m.inOrderTo%n].chunk != nil {
		m.inOrderTo++
	}
}

// levels counts the chunks that are in order and not applied, and those that came before a missing
// one.
func (m *merge) levels() (l occupancy.Levels) {
	if m.discarded {
		return l
	}
	l.Queue, l.Ahead = int(m.inOrderTo-m.next), int(m.delivered-m.inOrderTo)
	if l.Queue > 0 {
		l.Waiting = occupancy.ForLoad
	}
	return l
}

// unlock ends a section that may have moved chunks.
func (m *merge) unlock() {
	m.gauge.Set(m.levels())
	m.mu.Unlock()
}

// usage is the usage since the beginning.
func (m *merge) usage() usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return usage{m.gauge.Usage(), m.delivered}
}
