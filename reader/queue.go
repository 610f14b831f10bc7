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

// queue is where chunks wait for a lane, those of each device in a line, and then
// for the destination to say that it has them; and the memory that they wait in.
// Whose turn it is, for either, package share says.
//
// A chunk needs credit to leave the queue, not to enter it: a device that is
// not read idles (mlx5 with two unread chunks), and that is downtime. What a lane has
// taken is kept until the destination has applied it: the lane may be lost, and only
// the destination knows with what.
type queue struct {
	arena *wire.Arena

	mu        sync.Mutex
	changed   sync.Cond // a chunk may leave, or none will come any more
	pool      *share.Pool
	turns     *share.Turns
	lines     []line
	retained  int                       // chunks in all lines
	padding   int                       // frames of it that lanes may send while they have nothing better to do
	lost      [transport.MaxLanes]error // why a lane takes nothing any more
	closed    bool
	discarded bool
	chunks    int // there are
	levels    levels
	gauge     occupancy.Gauge
}

// padding stands for a frame of padding in what take returns.
var padding = new(wire.Chunk)

// line is one device's part of the queue: chunks in the order of their numbers.
type line struct {
	chunks     []retained // ring: number seq is at seq % len
	oldest     uint64     // of those that are kept
	next       uint64     // to be sent: none below waits
	end        uint64     // to be put
	acked      uint64     // numbers below the destination has
	sent       uint64     // numbers below were given to a lane
	count      int        // that wait for a lane
	bytes      uint64     // of them
	ready      int        // and may have one, as far as the levels know
	uncredited int        // or have no credit
	window     wire.Window
	granted    chan struct{} // holds a token when the pool gave the device a chunk
	wants      bool          // somebody waits for that
	read       uint64        // the stream was read up to here
	readLimit  uint64        // and is not to be read beyond this, 0 is no limit
}

// kept is a chunk that the destination may still need.
type retained struct {
	*wire.Chunk
	where place
	lane  int // that has it, or has had it last
}

// place is where a chunk is.
type place uint8

const (
	gone     place = iota // nobody needs it
	queued                // it waits for a lane
	sending               // a lane is sending it, and reads its memory
	inFlight              // it was sent
)

// newQueue may use so many chunks of the arena.
func newQueue(arena *wire.Arena, chunks int, needs []share.Need) *queue {
	q := &queue{arena: arena, pool: share.NewPool(chunks, needs), turns: share.NewTurns(needs), lines: make([]line, len(needs)), chunks: chunks, gauge: occupancy.NewGauge()}
	q.changed.L = &q.mu
	for i := range q.lines {
		q.lines[i].chunks, q.lines[i].granted = make([]retained, chunks), make(chan struct{}, 1)
	}
	return q
}

// get takes memory for a chunk of the device, waiting for it if need be. A
// device has one reader, so one who waits.
func (q *queue) get(ctx context.Context, device int) (*wire.Chunk, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	q.setWant(device, true)
	l := &q.lines[device]
	select {
	case <-l.granted:
		return q.arena.TryGet() // the pool has counted: it is there
	case <-ctx.Done():
		q.setWant(device, false)
	}
	select {
	case <-l.granted: // just before
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

// ask asks the pool for what the device wants, and may have.
func (q *queue) updateWant(device int) {
	l := &q.lines[device]
	q.pool.Want(device, l.wants && (l.readLimit == 0 || l.read < l.readLimit))
}

// bound limits how far the streams are read, each to about its offset in most;
// nil lifts the limits.
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

// give hands free memory to those who want it.
func (q *queue) giveMemory() {
	for i, ok := q.pool.Next(); ok; i, ok = q.pool.Next() {
		q.lines[i].wants = false
		q.pool.Want(i, false)
		q.levels.reading++
		q.lines[i].granted <- struct{}{}
	}
}

// release gives a chunk's memory back that was not put.
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

// put queues a sealed chunk. There is room for every one that there is.
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

// look sees whether the first chunk that waits has credit.
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

// forget lets go of a chunk that nobody needs any more, and gives it back, unless a
// lane is sending it: that does so when it has (took).
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

// applied takes in that the destination has every chunk numbered below seq. It cannot
// have one that was never sent, nor need one again that it has had: that is gone here.
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

// took takes back a chunk that a lane has sent, as far as it came.
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

// lose has a lane take nothing any more, because of err.
func (q *queue) failLane(lane int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost[lane] = err
	q.changed.Broadcast()
}

// requeue has everything that a lane has had, and nobody knows the fate of, sent again.
// The lane's sender has ended; another one may take its number.
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
func (q *queue) pendingPadding() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.padding
}

// take returns the chunk whose turn it is, for a lane, or else padding, waiting until
// there is either, or nil when no chunk will be sent any more. Then everything has
// been applied, or the lane is lost.
func (q *queue) take(lane int) (*wire.Chunk, error) {
	q.mu.Lock()
	defer q.unlock()
	for {
		if err := q.lost[lane]; err != nil {
			return nil, err
		}
		if i, ok := q.turns.Next(); ok {
			c := q.pop(i, lane)
			q.turns.Took(i, int(c.RawLen))
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

// grant takes in a promise of the destination. A promise is memory set aside: it
// never shrinks.
func (q *queue) grant(device int, w wire.Window) {
	q.mu.Lock()
	defer q.unlock()
	l := &q.lines[device]
	l.window.Seq = max(l.window.Seq, w.Seq)
	l.window.Offset = max(l.window.Offset, w.Offset)
	q.updateReady(device)
	q.changed.Broadcast()
}

// divide makes the shares anew: needs is what the devices have still to give.
// For the lanes, what is queued comes on top.
func (q *queue) divide(needs []share.Need) {
	q.mu.Lock()
	defer q.unlock()
	q.pool.Divide(needs)
	for i := range needs {
		n, l := &needs[i], &q.lines[i]
		if n.Done {
			n.Bytes, n.Known, n.Done = 0, true, l.count == 0
		}
		if n.Bytes <= wire.MaxStream { // else it is no estimate
			n.Bytes += l.bytes
		}
	}
	q.turns.Divide(needs)
	q.giveMemory()
}

// close says that nothing is put any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// drop releases what is kept, and whatever will be: nobody sends any more.
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

// levels is where the chunks of the queue's memory are. What is in none of these is
// free; so is, for the moment that its lane takes, a chunk that was acknowledged before
// its lane has said that it is sent.
type levels struct {
	reading    int // a device is being read into it
	ready      int // it waits for a lane
	uncredited int // it waits for credit, or behind one that does
	sending    int // of kept, or just acknowledged: a lane has it
	retained   int // in all lines: ready, held, and those that were taken and not acknowledged
}

// waits says what everything waits for now: the last stage that has something before
// it. A stage that waits for the one before it holds nothing up.
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

// sort takes in what the chunks of a line wait for: the first of them has credit or not.
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

// usage is that of all the time so far.
func (q *queue) usage() occupancy.Usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.gauge.Usage()
}
