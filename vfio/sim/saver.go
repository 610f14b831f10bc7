package sim

import (
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// dumpEvery is the shortest time between two dumps of virtio's parts.
const dumpEvery = time.Second

// saver makes the stream of a saving session.
type saver struct {
	p  *profile
	id identity
	im *image

	pos     int64 // bytes read
	planned int64 // bytes of all rounds so far
	pace    pace

	round   bitset // blocks that are planned but not begun
	cursor  int    // the first block that round may contain
	initial bool   // the first image is not read completely
	dumped  time.Time
	final   bool // STOP_COPY: no further round follows

	headBuf [qatSetup]byte
	head    []byte // the unread bytes of a head or of a record's header
	rec     record // the current record
	key     uint64 // the key of its content
	off     int64  // the bytes of its content that were read
}

// newSaver begins a session in PRE_COPY. For STOP_COPY the caller calls
// planFinal afterwards.
func newSaver(p *profile, id identity, im *image, o *Options, now time.Time) *saver {
	s := &saver{p: p, id: id, im: im, initial: true, dumped: now}
	s.round = newBitset(len(im.gens))
	s.pace = pace{chunk: p.chunk, chunks: p.chunks, since: now}
	if o.Buffer > 0 {
		s.pace.chunk = o.Buffer
	}
	if p.async {
		s.pace.rate = o.SaveRate
	}
	for i := range im.gens {
		im.dirty.set(i)
	}
	s.head = s.headBuf[:p.layout.headLen()]
	p.layout.putHead(s.head, id, im)
	s.planned = int64(len(s.head))
	if p.rounds != headOnly {
		s.plan(now, im.dirty)
	}
	return s
}

// plan adds blocks to the current round.
func (s *saver) plan(now time.Time, blocks bitset) {
	s.pace.advance(now, s.pos, s.planned)
	for i := blocks.next(0); i >= 0; i = blocks.next(i + 1) {
		if !s.round.has(i) {
			s.round.set(i)
			s.planned += int64(s.p.layout.recordLen()) + s.im.blockLen(i)
		}
	}
	s.cursor = 0
}

// planAll adds every block, changed or not.
func (s *saver) planAll(now time.Time) {
	for i := range s.im.gens {
		s.im.dirty.set(i)
	}
	s.plan(now, s.im.dirty)
	s.dumped = now
}

// planFinal plans the data of STOP_COPY: the changed blocks (all blocks on
// virtio), and the record that ends the stream.
func (s *saver) planFinal(now time.Time) {
	if s.p.rounds == dumps {
		s.planAll(now)
	}
	s.plan(now, s.im.dirty)
	s.planned += int64(s.p.layout.lastLen())
	s.final = true
}

// pending implements VFIO_MIG_GET_PRECOPY_INFO. If all bytes were read, it also
// starts the next round, unless the device is at rest (PRE_COPY_P2P).
func (s *saver) pending(now time.Time, atRest bool) vfio.Pending {
	if s.pos == s.planned {
		s.initial = false
		if !atRest {
			s.startRound(now)
		}
	}
	unread := uint64(s.planned - s.pos)
	if s.initial {
		return vfio.Pending{Initial: unread}
	}
	// The drivers do not count the headers of their records.
	return vfio.Pending{Dirty: unread - min(unread, uint64(s.round.count()*s.p.layout.recordLen()))}
}

func (s *saver) startRound(now time.Time) {
	switch {
	case s.p.rounds == increments:
		s.plan(now, s.im.dirty)
	case s.p.rounds == dumps && now.Sub(s.dumped) >= dumpEvery:
		s.planAll(now)
	}
}

// reinit starts over with a new initial round. Bytes that are planned already
// precede it.
func (s *saver) reinit(now time.Time) vfio.Pending {
	s.im.dirtyAll()
	s.plan(now, s.im.dirty)
	s.initial = true
	return vfio.Pending{Initial: uint64(s.planned - s.pos), Reinit: true}
}

// read copies up to len(p) ready bytes to p.
func (s *saver) read(p []byte, now time.Time) int {
	s.pace.advance(now, s.pos, s.planned)
	n := int(min(int64(len(p)), s.pace.ready-s.pos))
	for p = p[:n]; len(p) > 0; {
		p = p[s.copyNext(p):]
	}
	s.pos += int64(n)
	return n
}

// copyNext copies bytes of the current head, header or content to the start of p.
func (s *saver) copyNext(p []byte) int {
	if len(s.head) == 0 && s.off == s.rec.n {
		s.beginRecord(s.round.next(s.cursor))
	}
	if n := copy(p, s.head); n > 0 {
		s.head = s.head[n:]
		return n
	}
	n := int(min(int64(len(p)), s.rec.n-s.off))
	s.im.content.fill(p[:n], s.key, s.off)
	s.off += int64(n)
	return n
}

// beginRecord starts the record of a block in its current generation. Block -1 is
// the record that ends the stream.
func (s *saver) beginRecord(block int) {
	s.off = 0
	if block < 0 {
		s.rec = record{last: true, digest: s.im.digest()}
	} else {
		s.rec = record{block: block, gen: s.im.gens[block], n: s.im.blockLen(block)}
		s.key = s.im.key(block, s.rec.gen)
		s.round.clear(block)
		s.im.dirty.clear(block)
		s.cursor = block + 1
	}
	s.head = s.headBuf[:s.p.layout.recordLen()]
	s.p.layout.putRecord(s.head, s.im, s.rec)
}

// pace is the progress of a device that saves. It has no goroutine: each call
// computes the progress up to its time.
type pace struct {
	rate   int64 // bytes per second, 0 = at once
	chunk  int64 // bytes that become readable together, 0 = each byte at once
	chunks int64 // number of unread chunks at which the device becomes idle

	base  int64     // bytes saved at the time below
	since time.Time // when the device last began to save
	ready int64     // readable bytes, which never decrease
}

// limit returns the position at which the device becomes idle if the reader is at
// pos.
func (p *pace) limit(pos, planned int64) int64 {
	if p.chunk == 0 {
		return planned
	}
	return min(planned, (pos/p.chunk+p.chunks)*p.chunk)
}

// advance advances ready to now. Callers call it before they change pos or
// planned, so that it notes each time at which the device became idle.
func (p *pace) advance(now time.Time, pos, planned int64) {
	limit := p.limit(pos, planned)
	saved := limit
	if p.rate > 0 {
		saved = p.base + bytesIn(p.rate, now.Sub(p.since))
	}
	if saved >= limit {
		saved = limit
		p.base, p.since = limit, now
	}
	p.ready = max(p.ready, p.readable(saved, planned))
}

// readable returns how many of the saved bytes are readable: whole chunks, or all
// planned bytes.
func (p *pace) readable(saved, planned int64) int64 {
	if p.chunk == 0 || saved >= planned {
		return saved
	}
	return saved / p.chunk * p.chunk
}

// timeToNext returns how long it takes from now until more bytes are ready.
func (p *pace) timeToNext(now time.Time, planned int64) time.Duration {
	next := planned
	if p.chunk > 0 {
		next = min(planned, (p.ready/p.chunk+1)*p.chunk)
	}
	return max(timeFor(p.rate, next-p.base)-now.Sub(p.since), 1)
}
