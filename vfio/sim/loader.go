package sim

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"github.com/migpipe/migpipe/vfio"
)

// loader loads the stream of a RESUMING session, which may be written in any
// pieces. It checks every byte: the headers of the stream determine its content.
type loader struct {
	p     *profile
	want  identity
	limit int64 // bytes that the device can hold, 0 = any number

	pos  int64
	im   *image // nil before the head is complete
	seen bitset // blocks that were loaded

	buf  [qatSetup]byte
	have int    // bytes of a head or of a record's header in buf
	need int    // bytes of the complete head or header
	rec  record // the current record
	key  uint64 // the key of its content
	off  int64  // the bytes of its content that were written

	ended bool      // the stream is complete
	bad   error     // why the state differs from the source's, nil if no difference is known
	how   rejection // how the driver rejects it
	check []byte    // the expected content
}

// checkLen is the length of a comparison. It fits the first-level cache.
const checkLen = 16 << 10

func newLoader(p *profile, want identity, limit int64) *loader {
	return &loader{p: p, want: want, limit: limit, need: p.layout.headLen(), check: make([]byte, checkLen)}
}

// write loads all of p, unless the driver refuses it.
func (l *loader) write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = l.accept(p[n:])
		n += m
		l.pos += int64(m)
	}
	return n, err
}

// accept loads the start of p, up to the end of a header or record.
func (l *loader) accept(p []byte) (int, error) {
	if l.limit > 0 {
		if l.pos == l.limit {
			return 0, l.refuseOverflow()
		}
		p = p[:min(int64(len(p)), l.limit-l.pos)]
	}
	switch {
	case l.bad != nil: // the driver has not noticed it
		return len(p), nil
	case l.ended:
		return len(p), l.refuseTrailing()
	case l.have < l.need:
		return l.acceptHeader(p)
	default:
		return l.acceptContent(p)
	}
}

func (l *loader) acceptHeader(p []byte) (int, error) {
	n := copy(l.buf[l.have:l.need], p)
	l.have += n
	switch {
	case l.have < l.need:
		return n, nil
	case l.im == nil:
		return n, l.loadHead(l.buf[:l.need])
	default:
		return n, l.loadRecord(l.buf[:l.need])
	}
}

func (l *loader) loadHead(b []byte) error {
	im, err := l.p.layout.parseHead(b, l.want)
	if err != nil {
		return l.refuse(l.p.badHead, err)
	}
	l.setImage(im)
	l.ended = im.size == 0
	l.have, l.need = 0, l.p.layout.recordLen()
	return nil
}

func (l *loader) loadRecord(b []byte) error {
	im, r, err := l.p.layout.parseRecord(b, l.im)
	if err != nil {
		return l.refuse(l.p.badBody, err)
	}
	if r.last {
		return l.checkLast(r)
	}
	if im != l.im {
		l.setImage(im)
	}
	l.rec, l.key, l.off = r, im.key(r.block, r.gen), 0
	return nil
}

// initialComplete reports whether the initial bytes of PRE_COPY were written: the
// head if PRE_COPY has only that, otherwise each block once.
func (l *loader) initialComplete() bool {
	return l.im != nil && (l.p.rounds == headOnly || l.seen.count() == len(l.im.gens))
}

func (l *loader) setImage(im *image) {
	l.im, l.seen = im, newBitset(len(im.gens))
}

// checkLast compares the generations of all blocks with those of the source at
// the end of its stream.
func (l *loader) checkLast(r record) error {
	if missing := len(l.im.gens) - l.seen.count(); missing > 0 {
		return l.refuse(l.p.badBody, fmt.Errorf("stream ends with %d of %d blocks missing", missing, len(l.im.gens)))
	}
	if l.im.digest() != r.digest {
		return l.refuse(l.p.badBody, errors.New("stream ends with blocks that are not the latest"))
	}
	l.ended = true
	return nil
}

func (l *loader) acceptContent(p []byte) (int, error) {
	n := int(min(int64(len(p)), l.rec.n-l.off, checkLen))
	l.im.content.fill(l.check[:n], l.key, l.off)
	if !bytes.Equal(l.check[:n], p[:n]) {
		at := firstDifference(l.check[:n], p)
		return n, l.refuse(l.p.badBody, fmt.Errorf("block %d differs from the source's at byte %d of the stream", l.rec.block, l.pos+int64(at)))
	}
	if l.off += int64(n); l.off == l.rec.n {
		l.storeRecord()
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

// storeRecord stores the generation of a complete record. A stream without a
// last record has only one record.
func (l *loader) storeRecord() {
	l.im.gens[l.rec.block] = l.rec.gen
	l.seen.set(l.rec.block)
	l.have = 0
	l.ended = l.p.layout.lastLen() == 0
}

// refuseOverflow handles a write to a full device. Most drivers refuse it; pds
// makes a short write.
func (l *loader) refuseOverflow() error {
	l.bad = fmt.Errorf("stream is longer than the %d bytes that the device holds", l.limit)
	if l.p.overflow.at == never {
		return fmt.Errorf("%w: %w", vfio.ErrShortWrite, syscall.EINVAL)
	}
	return l.refuse(l.p.overflow, l.bad)
}

// refuseTrailing handles a write after the end of the stream.
func (l *loader) refuseTrailing() error {
	how := l.p.badBody
	if l.limit == 0 {
		how = l.p.overflow
	}
	return l.refuse(how, errors.New("bytes after the end of the state"))
}

// refuse records that the state differs from the source's. It returns an error if
// the driver rejects it in write.
func (l *loader) refuse(how rejection, why error) error {
	l.bad, l.how = why, how
	if how.at == inWrite {
		return rejected(how.errno, why)
	}
	return nil
}

// checkStop returns an error if the driver rejects the state on RESUMING -> STOP.
func (l *loader) checkStop() error {
	bare := l.p.bare > 0 && l.pos == l.p.bare
	if l.p.short != 0 && l.pos < l.limit && !bare {
		return rejected(l.p.short, l.verify())
	}
	if l.bad != nil && l.how.at == atStop {
		return rejected(l.how.errno, l.bad)
	}
	return nil
}

// verify returns an error if the state differs from the source's, whether or not
// the driver notices.
func (l *loader) verify() error {
	if l.bad == nil && !l.ended {
		return fmt.Errorf("state ends at byte %d, before its end", l.pos)
	}
	return l.bad
}

func rejected(errno syscall.Errno, why error) error {
	return fmt.Errorf("%w: %w (%w)", vfio.ErrRejected, errno, why)
}
