package reader

import (
	"context"
	"fmt"
	"sync"

	"github.com/migpipe/migpipe/internal/occupancy"
	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// queue holds the chunks of each device in a line: first for a lane, and then for their
// acknowledgement. It also divides the memory. Package share decides whose turn it is, for memory
// and for lanes.
//
// A chunk needs credit to leave the queue, not to enter it: a device that is not read stops saving
// (mlx5 after two unread chunks), and that adds to the downtime. The queue retains a chunk until
// the destination has applied it: its lane may be lost, and only the destination knows which chunks
// arrived.
type queue struct {
	arena *wire.Arena

	mu        sync.Mutex
	changed   sync.Cond // a chunk may leave, or no further chunk will come
	pool      *share.Pool
	turns     *share.Turns
	lines     []line
	retained  int                       // chunks in all lines
	padding   int                       // frames of padding that idle lanes may still send
	lost      [transport.MaxLanes]error // why a lane takes no further chunk
	closed    bool
	discarded bool
	chunks    int // number of chunks in the memory
	levels    levels
	gauge     occupancy.Gauge
}

// padding stands for a frame of padding in the results of take.
var padding = new(wire.Chunk)

// line is one device's part of the queue: chunks in the order of their numbers.
type line struct {
	chunks     []retained // ring: number seq is at seq % len
	oldest     uint64     // lowest number that is retained
	next       uint64     // number to be sent: no lower one waits
	end        uint64     // number to be put
	acked      uint64     // the destination has all lower numbers
	sent       uint64     // all lower numbers were given to a lane
	count      int        // chunks that wait for a lane
	bytes      uint64     // of the chunks that wait for a lane
	ready      int        // chunks that may have a lane, as counted in levels
	uncredited int        // chunks without credit, as counted in levels
	window     wire.Window
	granted    chan struct{} // holds a token when the pool gave the device a chunk
	wants      bool          // the drain waits for memory
	read       uint64        // the stream was read up to this offset
	readLimit  uint64        // and must not be read beyond this one, 0 is no limit
}

// retained is a chunk that the destination may still need.
type retained struct {
	*wire.Chunk
	where place
	lane  int // that sends it, or has sent it last
}

// place is the stage of a chunk.
type place uint8

const (
	gone     place = iota // acknowledged
	queued                // it waits for a lane
	sending               // a lane is sending it, and reads its memory
	inFlight              // it was sent
)

// newQueue makes a queue that may use so many chunks of the arena.
func newQueue(arena *wire.Arena, chunks int, needs []share.Need) *queue {
	q := &queue{arena: arena, pool: share.NewPool(chunks, needs), turns: share.NewTurns(needs), lines: make([]line, len(needs)), chunks: chunks, gauge: occupancy.NewGauge()}
	q.changed.L = &q.mu
	for i := range q.lines {
		q.lines[i].chunks, q.lines[i].granted = make([]retained, chunks), make(chan struct{}, 1)
	}
	return q
}

// get takes memory for a chunk of the device, and waits for it if necessary. A device has one
// drain, and so one waiter.
func (q *queue) get(ctx context.Context, device int) (*wire.Chunk, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	q.setWant(device, true)
	l := &q.lines[device]
	select {
	case <-l.granted:
		return q.arena.TryGet() // the pool has counted this chunk: the arena has it
	case <-ctx.Done():
		q.setWant(device, false)
	}
	select {
	case <-l.granted: // granted just before
		q.returnMemory(device)
	default:
	}
	return nil, context.Cause(ctx)
}

func (q *queue) setWant(device int, wants bool) {
	q.mu.Lock()
	defer q.unlock()
	q.lines[device].wants = wants
	q.updateWant(device)
	q.giveMemory()
}

// updateWant tells the pool whether the device wants memory, and may have it.
func (q *queue) updateWant(device int) {
	l := &q.lines[device]
	q.pool.Want(device, l.wants && (l.readLimit == 0 || l.read < l.readLimit))
}

// limitReading limits how far the streams are read, each to about its offset in most. nil lifts the
// limits.
func (q *queue) limitReading(most []uint64) {
	q.mu.Lock()
	defer q.unlock()
	for i := range q.lines {
		q.lines[i].readLimit = 0
		if most != nil {
			q.lines[i].readLimit = most[i]
		}
		q.updateWant(i)
	}
	q.giveMemory()
}

// giveMemory grants free memory to the devices that wait for it.
func (q *queue) giveMemory() {
	for i, ok := q.pool.Next(); ok; i, ok = q.pool.Next() {
		q.lines[i].wants = false
		q.pool.Want(i, false)
		q.levels.reading++
		q.lines[i].granted <- struct{}{}
	}
}

// release frees a chunk that was not put.
func (q *queue) release(device int, c *wire.Chunk) {
	c.Release()
	q.returnMemory(device)
}

func (q *queue) returnMemory(device int) {
	q.mu.Lock()
	defer q.unlock()
	q.levels.reading--
	q.pool.Return(device, 1)
	q.giveMemory()
}

func (l *line) at(seq uint64) *retained { return &l.chunks[seq%uint64(len(l.chunks))] }

// put queues a sealed chunk. A line has room for every chunk of the memory.
func (q *queue) put(c *wire.Chunk) {
	q.mu.Lock()
	defer q.unlock()
	q.levels.reading--
	if q.discarded {
		c.Release()
		return
	}
	l := &q.lines[c.Device]
	l.read, l.end = c.Offset+uint64(c.RawLen), c.Seq+1
	*l.at(c.Seq) = retained{Chunk: c}
	q.retained++
	q.enqueue(l, l.at(c.Seq))
	q.updateReady(int(c.Device))
	q.changed.Signal()
}

func (q *queue) enqueue(l *line, k *retained) {
	k.where = queued
	l.count, l.bytes = l.count+1, l.bytes+uint64(k.RawLen)
}

// updateReady updates whether the first waiting chunk of a device has credit.
func (q *queue) updateReady(device int) {
	l := &q.lines[device]
	for l.next < l.end && l.at(l.next).where != queued {
		l.next++
	}
	ready := false
	if l.next < l.end {
		k := l.at(l.next)
		ready = k.Seq < l.window.Seq && k.Offset+uint64(k.RawLen) <= l.window.Offset
	}
	q.turns.Ready(device, ready)
	q.levels.moveLine(l, ready)
}

// freeChunk frees a chunk that is no longer needed. If a lane is sending it, finishSend frees it.
func (q *queue) freeChunk(device int, k *retained) {
	l := &q.lines[device]
	if k.where == queued {
		l.count, l.bytes = l.count-1, l.bytes-uint64(k.RawLen)
	}
	if k.where != sending {
		k.Release()
		q.pool.Return(device, 1)
	}
	*k = retained{}
	q.retained--
	for l.oldest < l.end && l.at(l.oldest).where == gone {
		l.oldest++
	}
}

// ack frees the chunks that the destination has: all with lower numbers than seq. The destination
// cannot have a chunk that was never sent. It cannot need a chunk again after it acknowledged it:
// that chunk was freed.
func (q *queue) ack(device int, seq uint64) error {
	q.mu.Lock()
	defer q.unlock()
	l := &q.lines[device]
	if seq > l.sent {
		return fmt.Errorf("%w: chunks up to %d of device %d are acknowledged, %d were sent", transport.ErrProtocol, seq, device, l.sent)
	}
	if seq < l.acked {
		return fmt.Errorf("%w: chunks up to %d of device %d are acknowledged, and %d were before: the destination has lost some", transport.ErrProtocol, seq, device, l.acked)
	}
	l.acked = seq
	for n := l.oldest; n < seq && !q.discarded; n++ {
		q.freeChunk(device, l.at(n))
	}
	q.updateReady(device)
	q.giveMemory()
	if q.closed && q.retained == 0 {
		q.changed.Broadcast()
	}
	return nil
}

// finishSend returns a chunk that a lane has sent, in whole or in part.
func (q *queue) finishSend(c *wire.Chunk) {
	q.mu.Lock()
	defer q.unlock()
	q.levels.sending--
	if k := q.lines[c.Device].at(c.Seq); k.Chunk == c {
		k.where = inFlight
		return
	}
	q.pool.Return(int(c.Device), 1)
	c.Release()
	q.giveMemory()
}

// failLane makes a lane take no further chunk, because of err.
func (q *queue) failLane(lane int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost[lane] = err
	q.changed.Broadcast()
}

// requeue queues every chunk that a lane had, and that is not acknowledged, once more. The lane's
// sender has ended; another lane may take its number.
func (q *queue) requeue(lane int) {
	q.mu.Lock()
	defer q.unlock()
	q.lost[lane] = nil
	for i := range q.lines {
		l := &q.lines[i]
		for n := l.oldest; n < l.end; n++ {
			if k := l.at(n); k.where == inFlight && k.lane == lane {
				q.enqueue(l, k)
				l.next = min(l.next, n)
			}
		}
		q.updateReady(i)
	}
	q.changed.Broadcast()
}

// pad makes lanes with nothing else to send send so many frames of padding, in all, from now on. It
// returns the frames of an earlier call that were not sent.
func (q *queue) pad(frames int) (unsent int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	unsent, q.padding = q.padding, frames
	q.changed.Broadcast()
	return unsent
}

// pendingPadding is the number of those frames that were not sent yet.
func (q *queue) pendingPadding() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.padding
}

// take returns the next chunk for a lane, or else padding. It waits until there is either. It
// returns nil when no further chunk will be sent: everything was applied, or the lane is lost.
func (q *queue) take(lane int) (*wire.Chunk, error) {
	q.mu.Lock()
	defer q.unlock()
	for {
		if err := q.lost[lane]; err != nil {
			return nil, err
		}
		if i, ok := q.turns.Next(); ok {
			c := q.pop(i, lane)
			q.turns.Take(i, int(c.RawLen))
			return c, nil
		}
		if q.discarded || q.closed && q.retained == 0 {
			return nil, nil
		}
		if q.padding > 0 {
			q.padding--
			return padding, nil
		}
		q.changed.Wait()
	}
}

func (q *queue) pop(device, lane int) *wire.Chunk {
	l := &q.lines[device]
	k := l.at(l.next)
	k.where, k.lane = sending, lane
	q.levels.sending++
	l.sent = max(l.sent, k.Seq+1)
	l.count, l.bytes = l.count-1, l.bytes-uint64(k.RawLen)
	q.updateReady(device)
	return k.Chunk
}

// grant takes a window of the destination. A window is memory set aside: it never shrinks.
func (q *queue) grant(device int, w wire.Window) {
	q.mu.Lock()
	defer q.unlock()
	l := &q.lines[device]
	l.window.Seq = max(l.window.Seq, w.Seq)
	l.window.Offset = max(l.window.Offset, w.Offset)
	q.updateReady(device)
	q.changed.Broadcast()
}

// divide computes the shares again. needs is how much the devices have still to yield. For the
// lanes, the queued bytes are added.
func (q *queue) divide(needs []share.Need) {
	q.mu.Lock()
	defer q.unlock()
	q.pool.Divide(needs)
	for i := range needs {
		n, l := &needs[i], &q.lines[i]
		if n.Done {
			n.Bytes, n.Known, n.Done = 0, true, l.count == 0
		}
		if n.Bytes <= wire.MaxStream { // a larger number is no estimate
			n.Bytes += l.bytes
		}
	}
	q.turns.Divide(needs)
	q.giveMemory()
}

// close says that no further chunk is put.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// discardAll frees all chunks, and every chunk that is put later: no lane sends any more.
func (q *queue) discardAll() {
	q.mu.Lock()
	defer q.unlock()
	q.closed, q.discarded = true, true
	for i := range q.lines {
		l := &q.lines[i]
		for n := l.oldest; n < l.end; n++ {
			q.freeChunk(i, l.at(n))
		}
		q.updateReady(i)
	}
	q.changed.Broadcast()
}

// levels counts the chunks of the queue's memory by stage. All other chunks are free. An
// acknowledged chunk that its lane still sends counts as sending only.
type levels struct {
	reading    int // a device is being read into it
	ready      int // it waits for a lane
	uncredited int // it waits for credit, or behind a chunk that does
	sending    int // a lane sends it; of retained, or just acknowledged
	retained   int // in all lines: ready, uncredited, sending and in flight
}

// waiting is what the data path waits for now: the last stage that has a chunk before it. A stage
// that waits for an earlier stage holds up nothing.
func (l levels) waiting() occupancy.Waiting {
	switch {
	case l.ready > 0:
		return occupancy.ForLane
	case l.uncredited > 0:
		return occupancy.ForPeer
	case l.reading > 0:
		return occupancy.ForDevice
	case l.sending > 0:
		return occupancy.ForLane
	case l.retained > 0:
		return occupancy.ForPeer
	}
	return occupancy.ForNothing
}

// moveLine counts the waiting chunks of a line as ready or as uncredited: the first of them has
// credit or not.
func (l *levels) moveLine(of *line, credit bool) {
	l.ready, l.uncredited = l.ready-of.ready, l.uncredited-of.uncredited
	of.ready, of.uncredited = 0, of.count
	if credit {
		of.ready, of.uncredited = of.count, 0
	}
	l.ready, l.uncredited = l.ready+of.ready, l.uncredited+of.uncredited
}

// unlock ends a section that may have moved chunks.
func (q *queue) unlock() {
	l := &q.levels
	l.retained = q.retained
	q.gauge.Set(occupancy.Levels{Queue: l.ready, Credit: l.uncredited, Flight: l.retained - l.ready - l.uncredited, Waiting: l.waiting()})
	q.mu.Unlock()
}

// usage is the usage since the beginning.
func (q *queue) usage() occupancy.Usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.gauge.Usage()
}
