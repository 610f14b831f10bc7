package reader

import (
	"context"
	"sync"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/share"
)

// queue is where chunks wait for a lane, those of each device in a line, and
// the memory that they wait in. Whose turn it is, for either, package share
// says.
//
// A chunk needs credit to leave the queue, not to enter it: a device that is
// not read idles (mlx5 with two unread chunks), and that is downtime.
type queue struct {
	arena *transport.Arena

	mu      sync.Mutex
	changed sync.Cond // a chunk may leave, or none will come any more
	pool    *share.Pool
	turns   *share.Turns
	lines   []line
	waiting int // chunks in all lines
	padding int // frames of it that lanes may send while they have nothing better to do
	closed  bool
	dropped bool
}

// padding stands for a frame of padding in what take returns.
var padding = new(transport.Chunk)

// line is one device's part of the queue.
type line struct {
	chunks []*transport.Chunk // ring
	first  int                // of them
	count  int
	bytes  uint64
	window transport.Window
	given  chan struct{} // holds a token when the pool gave the device a chunk
	wants  bool          // somebody waits for that
	read   uint64        // the stream was read up to here
	most   uint64        // and is not to be read beyond this, 0 is no limit
}

// newQueue may use so many chunks of the arena.
func newQueue(arena *transport.Arena, chunks int, needs []share.Need) *queue {
	q := &queue{arena: arena, pool: share.NewPool(chunks, needs), turns: share.NewTurns(needs), lines: make([]line, len(needs))}
	q.changed.L = &q.mu
	for i := range q.lines {
		q.lines[i].chunks, q.lines[i].given = make([]*transport.Chunk, chunks), make(chan struct{}, 1)
	}
	return q
}

// get takes memory for a chunk of the device, waiting for it if need be. A
// device has one reader, so one who waits.
func (q *queue) get(ctx context.Context, device int) (*transport.Chunk, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	q.want(device, true)
	l := &q.lines[device]
	select {
	case <-l.given:
		return q.arena.TryGet() // the pool has counted: it is there
	case <-ctx.Done():
		q.want(device, false)
	}
	select {
	case <-l.given: // just before
		q.giveBack(device)
	default:
	}
	return nil, context.Cause(ctx)
}

func (q *queue) want(device int, wants bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lines[device].wants = wants
	q.ask(device)
	q.give()
}

// ask asks the pool for what the device wants, and may have.
func (q *queue) ask(device int) {
	l := &q.lines[device]
	q.pool.Want(device, l.wants && (l.most == 0 || l.read < l.most))
}

// bound limits how far the streams are read, each to about its offset in most;
// nil lifts the limits.
func (q *queue) bound(most []uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.lines {
		q.lines[i].most = 0
		if most != nil {
			q.lines[i].most = most[i]
		}
		q.ask(i)
	}
	q.give()
}

// give hands free memory to those who want it.
func (q *queue) give() {
	for i, ok := q.pool.Next(); ok; i, ok = q.pool.Next() {
		q.lines[i].wants = false
		q.pool.Want(i, false)
		q.lines[i].given <- struct{}{}
	}
}

// release gives a chunk's memory back.
func (q *queue) release(device int, c *transport.Chunk) {
	c.Release()
	q.giveBack(device)
}

func (q *queue) giveBack(device int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pool.Return(device, 1)
	q.give()
}

// put queues a sealed chunk. There is room for every one that there is.
func (q *queue) put(c *transport.Chunk) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropped {
		c.Release()
		return
	}
	l := &q.lines[c.Device]
	l.read = c.Offset + uint64(c.RawLen)
	l.chunks[(l.first+l.count)%len(l.chunks)] = c
	l.count, l.bytes, q.waiting = l.count+1, l.bytes+uint64(c.RawLen), q.waiting+1
	q.look(int(c.Device))
	q.changed.Signal()
}

// look sees whether the first chunk of a line has credit.
func (q *queue) look(device int) {
	l := &q.lines[device]
	if l.count == 0 {
		q.turns.Ready(device, false)
		return
	}
	c := l.chunks[l.first]
	q.turns.Ready(device, c.Seq < l.window.Seq && c.Offset+uint64(c.RawLen) <= l.window.Offset)
}

// pad has lanes that have nothing else to send send so many frames of padding, in
// all, from now on, and says how many of an earlier call it has not sent.
func (q *queue) pad(frames int) (left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	left, q.padding = q.padding, frames
	q.changed.Broadcast()
	return left
}

// unpadded is how many of those were not sent yet.
func (q *queue) unpadded() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.padding
}

// take returns the chunk whose turn it is, or else padding, waiting until there is
// either, or nil when no chunk will come any more.
func (q *queue) take() *transport.Chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if i, ok := q.turns.Next(); ok {
			c := q.pop(i)
			q.turns.Took(i, int(c.RawLen))
			return c
		}
		if q.closed && q.waiting == 0 {
			return nil
		}
		if q.padding > 0 {
			q.padding--
			return padding
		}
		q.changed.Wait()
	}
}

func (q *queue) pop(device int) *transport.Chunk {
	l := &q.lines[device]
	c := l.chunks[l.first]
	l.first = (l.first + 1) % len(l.chunks)
	l.count, l.bytes, q.waiting = l.count-1, l.bytes-uint64(c.RawLen), q.waiting-1
	q.look(device)
	return c
}

// grant takes in a promise of the destination. A promise is memory set aside: it
// never shrinks.
func (q *queue) grant(device int, w transport.Window) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := &q.lines[device]
	l.window.Seq = max(l.window.Seq, w.Seq)
	l.window.Offset = max(l.window.Offset, w.Offset)
	q.look(device)
	q.changed.Broadcast()
}

// divide makes the shares anew: needs is what the devices have still to give.
// For the lanes, what is queued comes on top.
func (q *queue) divide(needs []share.Need) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pool.Divide(needs)
	for i := range needs {
		n, l := &needs[i], &q.lines[i]
		if n.Done {
			n.Bytes, n.Known, n.Done = 0, true, l.count == 0
		}
		if n.Bytes <= transport.MaxStream { // else it is no estimate
			n.Bytes += l.bytes
		}
	}
	q.turns.Divide(needs)
	q.give()
}

// close says that nothing is put any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// drop releases what is queued, and whatever will be: nobody sends any more.
func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.dropped = true, true
	for i := range q.lines {
		for q.lines[i].count > 0 {
			q.pop(i).Release()
		}
	}
	q.changed.Broadcast()
}

// needs is what memory and lanes are divided by.
func (e *engine) needs() []share.Need {
	needs := make([]share.Need, len(e.sources))
	for i, s := range e.sources {
		left, known := e.remaining(i)
		needs[i] = share.Need{Bytes: left, Known: known, Priority: uint8(s.Priority), Done: e.plan.devices[i].ended}
	}
	return needs
}
