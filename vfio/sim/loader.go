package sim

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"github.com/migpipe/migpipe/vfio"
)

// loader takes the stream of a RESUMING session, however it is cut, and checks
// every byte: the stream says what content it should have.
type loader struct {
	p     *profile
	want  identity
	limit int64 // bytes that the device can hold, 0 = any number

	pos  int64
	im   *image // nil before the head is complete
	seen bitset // blocks that have arrived

	buf  [qatSetup]byte
	have int    // bytes of a head or of a record's header in buf
	need int    // how many of them make it complete
	rec  record // the record under way,
	key  uint64 // its content
	off  int64  // and how much of that has arrived

	ended bool    // the stream is complete
	bad   error   // why the state is not the source's, once that is known
	how   verdict // and how the driver says so
	check []byte  // what content should be
}

// checkLen keeps what is compared in the first-level cache.
const checkLen = 16 << 10

func newLoader(p *profile, want identity, limit int64) *loader {
	return &loader{p: p, want: want, limit: limit, need: p.layout.headLen(), check: make([]byte, checkLen)}
}

// write takes all of p unless the driver would refuse it.
func (l *loader) write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = l.take(p[n:])
		n += m
		l.pos += int64(m)
	}
	return n, err
}

// take takes the start of p: as much as belongs together.
func (l *loader) take(p []byte) (int, error) {
	if l.limit > 0 {
		if l.pos == l.limit {
			return 0, l.full()
		}
		p = p[:min(int64(len(p)), l.limit-l.pos)]
	}
	switch {
	case l.bad != nil: // the driver does not know yet, or never will
		return len(p), nil
	case l.ended:
		return len(p), l.after()
	case l.have < l.need:
		return l.takeHeader(p)
	default:
		return l.takeContent(p)
	}
}

func (l *loader) takeHeader(p []byte) (int, error) {
	n := copy(l.buf[l.have:l.need], p)
	l.have += n
	switch {
	case l.have < l.need:
		return n, nil
	case l.im == nil:
		return n, l.head(l.buf[:l.need])
	default:
		return n, l.record(l.buf[:l.need])
	}
}

func (l *loader) head(b []byte) error {
	im, err := l.p.layout.parseHead(b, l.want)
	if err != nil {
		return l.refuse(l.p.badHead, err)
	}
	l.adopt(im)
	l.ended = im.size == 0
	l.have, l.need = 0, l.p.layout.recordLen()
	return nil
}

func (l *loader) record(b []byte) error {
	im, r, err := l.p.layout.parseRecord(b, l.im)
	if err != nil {
		return l.refuse(l.p.badBody, err)
	}
	if r.last {
		return l.last(r)
	}
	if im != l.im {
		l.adopt(im)
	}
	l.rec, l.key, l.off = r, im.key(r.block, r.gen), 0
	return nil
}

// initialComplete reports whether all has arrived that PRE_COPY calls initial
// bytes: the head where it offers no more, else every block once.
func (l *loader) initialComplete() bool {
	return l.im != nil && (l.p.rounds == headOnly || l.seen.count() == len(l.im.gens))
}

func (l *loader) adopt(im *image) {
	l.im, l.seen = im, newBitset(len(im.gens))
}

// last compares the generations of all blocks with those that the source had
// when it ended its stream.
func (l *loader) last(r record) error {
	if missing := len(l.im.gens) - l.seen.count(); missing > 0 {
		return l.refuse(l.p.badBody, fmt.Errorf("stream ends with %d of %d blocks missing", missing, len(l.im.gens)))
	}
	if l.im.digest() != r.digest {
		return l.refuse(l.p.badBody, errors.New("stream ends with blocks that are not the latest"))
	}
	l.ended = true
	return nil
}

func (l *loader) takeContent(p []byte) (int, error) {
	n := int(min(int64(len(p)), l.rec.n-l.off, checkLen))
	l.im.content.fill(l.check[:n], l.key, l.off)
	if !bytes.Equal(l.check[:n], p[:n]) {
		at := firstDifference(l.check[:n], p)
		return n, l.refuse(l.p.badBody, fmt.Errorf("block %d differs from the source's at byte %d of the stream", l.rec.block, l.pos+int64(at)))
	}
	if l.off += int64(n); l.off == l.rec.n {
		l.store()
	}
	return n, nil
}

func firstDifference(a, b []byte) int {
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return i
}

// store ends a record. A stream without a last record has but one.
func (l *loader) store() {
	l.im.gens[l.rec.block] = l.rec.gen
	l.seen.set(l.rec.block)
	l.have = 0
	l.ended = l.p.layout.lastLen() == 0
}

// full is a write to a device that holds all it can: most refuse it, pds takes
// none of it.
func (l *loader) full() error {
	l.bad = fmt.Errorf("stream is longer than the %d bytes that the device holds", l.limit)
	if l.p.overflow.at == never {
		return fmt.Errorf("%w: %w", vfio.ErrShortWrite, syscall.EINVAL)
	}
	return l.refuse(l.p.overflow, l.bad)
}

// after is a write behind the end of the stream.
func (l *loader) after() error {
	how := l.p.badBody
	if l.limit == 0 {
		how = l.p.overflow
	}
	return l.refuse(how, errors.New("bytes after the end of the state"))
}

// refuse notes that the state is not the source's; the error is nil where the
// driver does not notice, or not yet.
func (l *loader) refuse(how verdict, why error) error {
	l.bad, l.how = why, how
	if how.at == inWrite {
		return rejected(how.errno, why)
	}
	return nil
}

// stop is what the driver thinks of the state when RESUMING is left.
func (l *loader) stop() error {
	bare := l.p.bare > 0 && l.pos == l.p.bare
	if l.p.short != 0 && l.pos < l.limit && !bare {
		return rejected(l.p.short, l.verify())
	}
	if l.bad != nil && l.how.at == atStop {
		return rejected(l.how.errno, l.bad)
	}
	return nil
}

// verify is what is wrong with the state in truth.
func (l *loader) verify() error {
	if l.bad == nil && !l.ended {
		return fmt.Errorf("state ends at byte %d, before its end", l.pos)
	}
	return l.bad
}

func rejected(errno syscall.Errno, why error) error {
	return fmt.Errorf("%w: %w (%w)", vfio.ErrRejected, errno, why)
}
