package sim

import (
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// dumpEvery is how often virtio dumps its parts again at most.
const dumpEvery = time.Second

// saver makes the stream of a saving session.
type saver struct {
	p  *profile
	id identity
	im *image

	pos     int64 // bytes read
	planned int64 // bytes that the rounds so far come to
	pace    pace

	round   bitset // blocks that are planned and not begun
	cursor  int    // none of them is before this one
	initial bool   // the first image is not read yet
	dumped  time.Time
	final   bool // STOP_COPY: the rounds so far are all

	headBuf [qatSetup]byte
	head    []byte // what is unread of a head or of a record's header
	rec     record // the record under way,
	key     uint64 // its content
	off     int64  // and how much of that is read
}

// newSaver opens a session in PRE_COPY, or in STOP_COPY where end follows.
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

// plan adds blocks to the round under way.
func (s *saver) plan(now time.Time, blocks bitset) {
	s.pace.look(now, s.pos, s.planned)
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

// end plans what STOP_COPY adds: what has changed (everything again on virtio),
// and the record that ends the stream.
func (s *saver) end(now time.Time) {
	if s.p.rounds == dumps {
		s.planAll(now)
	}
	s.plan(now, s.im.dirty)
	s.planned += int64(s.p.layout.lastLen())
	s.final = true
}

// pending is VFIO_MIG_GET_PRECOPY_INFO. When all was read it is also what
// starts the next round, unless a device at rest (PRE_COPY_P2P) makes none.
func (s *saver) pending(now time.Time, atRest bool) vfio.Pending {
	if s.pos == s.planned {
		s.initial = false
		if !atRest {
			s.refill(now)
		}
	}
	unread := uint64(s.planned - s.pos)
	if s.initial {
		return vfio.Pending{Initial: unread}
	}
	// The drivers do not count the headers of their records.
	return vfio.Pending{Dirty: unread - min(unread, uint64(s.round.count()*s.p.layout.recordLen()))}
}

func (s *saver) refill(now time.Time) {
	switch {
	case s.p.rounds == increments:
		s.plan(now, s.im.dirty)
	case s.p.rounds == dumps && now.Sub(s.dumped) >= dumpEvery:
		s.planAll(now)
	}
}

// reinit starts over: bytes that are planned go out first.
func (s *saver) reinit(now time.Time) vfio.Pending {
	s.im.renew()
	s.plan(now, s.im.dirty)
	s.initial = true
	return vfio.Pending{Initial: uint64(s.planned - s.pos), Reinit: true}
}

// read hands out what is ready, up to len(p).
func (s *saver) read(p []byte, now time.Time) int {
	s.pace.look(now, s.pos, s.planned)
	n := int(min(int64(len(p)), s.pace.ready-s.pos))
	for p = p[:n]; len(p) > 0; {
		p = p[s.copy(p):]
	}
	s.pos += int64(n)
	return n
}

// copy fills the start of p from the head, header or content under way.
func (s *saver) copy(p []byte) int {
	if len(s.head) == 0 && s.off == s.rec.n {
		s.begin(s.round.next(s.cursor))
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

// begin starts the record of a block, in the generation that it has now; -1 is
// the record that ends the stream.
func (s *saver) begin(block int) {
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

// pace is how far a device has come with saving. Nothing runs beside the
// caller: whoever looks computes what has been made by then.
type pace struct {
	rate   int64 // bytes per second, 0 = at once
	chunk  int64 // bytes that become readable together, 0 = every byte by itself
	chunks int64 // how many may be unread before the device idles

	base  int64     // made at the time below
	since time.Time // when the device last began to make bytes
	ready int64     // readable bytes, never fewer than before
}

// limit is where the device has to stop for a reader who is at pos.
func (p *pace) limit(pos, planned int64) int64 {
	if p.chunk == 0 {
		return planned
	}
	return min(planned, (pos/p.chunk+p.chunks)*p.chunk)
}

// look brings ready up to now. Being called before pos or planned change, it
// sees every moment at which the device began to idle.
func (p *pace) look(now time.Time, pos, planned int64) {
	limit := p.limit(pos, planned)
	made := limit
	if p.rate > 0 {
		made = p.base + bytesIn(p.rate, now.Sub(p.since))
	}
	if made >= limit {
		made = limit
		p.base, p.since = limit, now
	}
	p.ready = max(p.ready, p.whole(made, planned))
}

// whole is how much of what was made is readable: whole chunks, and the end.
func (p *pace) whole(made, planned int64) int64 {
	if p.chunk == 0 || made >= planned {
		return made
	}
	return made / p.chunk * p.chunk
}

// wait is how long it takes from now until more is ready.
func (p *pace) wait(now time.Time, planned int64) time.Duration {
	next := planned
	if p.chunk > 0 {
		next = min(planned, (p.ready/p.chunk+1)*p.chunk)
	}
	return max(timeFor(p.rate, next-p.base)-now.Sub(p.since), 1)
}
