package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var le = binary.LittleEndian

// identity describes a device in the head of its stream.
type identity struct {
	magic   uint64
	version uint32
	units   uint32 // serial ports of mtty, 1 for others; 0 for a device without a guest driver
}

// record is the header of a generation of a block, whose content follows. The
// last record of a stream has the digest of the whole state instead of a block.
type record struct {
	block  int
	gen    uint32
	n      int64 // bytes that follow
	last   bool
	digest uint64
}

// layout encodes a device's state as a stream: a head, then records.
type layout interface {
	headLen() int
	recordLen() int
	lastLen() int // length of the record that ends the stream, 0 for none
	// shape returns the bytes of content and of a block, for a state of size or
	// a stream of fixed length.
	shape(size int64) (content, block int64)
	putHead(b []byte, id identity, im *image)
	parseHead(b []byte, want identity) (*image, error)
	putRecord(b []byte, im *image, r record)
	// parseRecord returns im, or a new image if the head does not describe it.
	parseRecord(b []byte, im *image) (*image, record, error)
}

// baseLen is the length of the part of the head that all layouts share. It is
// the head of mtty: magic, major version, minor version, ports, flags.
const baseLen = 24

var errPadding = errors.New("padding is not zero")

func putBase(b []byte, id identity) {
	clear(b)
	le.PutUint64(b, id.magic)
	le.PutUint32(b[8:], id.version)
	le.PutUint32(b[16:], id.units)
}

func parseBase(b []byte, want identity) (units uint32, err error) {
	if m := le.Uint64(b); m != want.magic {
		return 0, fmt.Errorf("stream of another device: magic %#x, want %#x", m, want.magic)
	}
	if v := le.Uint32(b[8:]); v == 0 || v > want.version {
		return 0, fmt.Errorf("state version %d, this device understands up to %d", v, want.version)
	}
	if le.Uint32(b[12:])|le.Uint32(b[20:]) != 0 {
		return 0, errPadding
	}
	return le.Uint32(b[16:]), nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// records is the layout of large states, as of mlx5, virtio and xe: many blocks,
// each sent again after a change.
type records struct{}

func (records) headLen() int   { return 64 }
func (records) recordLen() int { return 32 }
func (records) lastLen() int   { return 32 }

func (records) shape(size int64) (content, block int64) { return size, blockSize(size) }

func (records) putHead(b []byte, id identity, im *image) {
	putBase(b, id)
	le.PutUint64(b[24:], im.seed)
	le.PutUint64(b[32:], uint64(im.size))
	le.PutUint32(b[40:], uint32(im.content))
}

func (records) parseHead(b []byte, want identity) (*image, error) {
	units, err := parseBase(b, want)
	if err != nil {
		return nil, err
	}
	size, content := le.Uint64(b[32:]), Content(le.Uint32(b[40:]))
	if units != want.units || size == 0 || size > maxSize || content > Text || !allZero(b[44:]) {
		return nil, fmt.Errorf("bad head: %d units, size %d, content %d", units, size, content)
	}
	return newImage(le.Uint64(b[24:]), content, int64(size), blockSize(int64(size))), nil
}

const (
	tagBlock = 0
	tagLast  = 1
)

func (records) putRecord(b []byte, im *image, r record) {
	clear(b)
	if r.last {
		le.PutUint32(b[12:], tagLast)
		le.PutUint64(b[16:], r.digest)
		return
	}
	le.PutUint64(b, uint64(r.n))
	le.PutUint32(b[12:], tagBlock)
	le.PutUint64(b[16:], uint64(r.block))
	le.PutUint64(b[24:], uint64(r.gen))
}

func (records) parseRecord(b []byte, im *image) (*image, record, error) {
	n, tag, block, gen := le.Uint64(b), le.Uint32(b[12:]), le.Uint64(b[16:]), le.Uint64(b[24:])
	switch {
	case le.Uint32(b[8:]) != 0 || gen>>32 != 0:
		return nil, record{}, errPadding
	case tag == tagLast && n == 0 && gen == 0:
		return im, record{last: true, digest: block}, nil
	case tag != tagBlock || block >= uint64(len(im.gens)) || n != uint64(im.blockLen(int(block))):
		return nil, record{}, fmt.Errorf("bad record: tag %d, block %d, %d bytes", tag, block, n)
	}
	return im, record{block: int(block), gen: uint32(gen), n: int64(n)}, nil
}

// blob is the layout of streams of a fixed length, as of mtty, hisi_acc and QAT:
// a head, which is readable in PRE_COPY, then one record. The record's header
// has the fields that do not fit into the head.
type blob struct {
	head int
	bare bool // the head alone is a whole stream too
}

const blobRecord = 16

func (l blob) headLen() int { return l.head }
func (blob) recordLen() int { return blobRecord }
func (blob) lastLen() int   { return 0 }

func (l blob) shape(size int64) (content, block int64) {
	n := max(0, size-int64(l.head)-blobRecord)
	return n, n
}

func (blob) putHead(b []byte, id identity, im *image) {
	if im.size == 0 {
		id.units = 0
	}
	putBase(b, id)
}

func (l blob) parseHead(b []byte, want identity) (*image, error) {
	units, err := parseBase(b, want)
	if err != nil {
		return nil, err
	}
	if !allZero(b[baseLen:]) {
		return nil, errPadding
	}
	if units != want.units && !(units == 0 && l.bare) {
		return nil, fmt.Errorf("stream of a device with %d units, this device has %d", units, want.units)
	}
	return newImage(0, Zero, int64(units), 1), nil // empty, or to be replaced
}

func (blob) putRecord(b []byte, im *image, r record) {
	le.PutUint64(b, im.seed)
	le.PutUint32(b[8:], r.gen)
	le.PutUint32(b[12:], uint32(r.n)<<8|uint32(im.content))
}

func (blob) parseRecord(b []byte, _ *image) (*image, record, error) {
	n, content := int64(le.Uint32(b[12:])>>8), Content(b[12])
	if n == 0 || content > Text {
		return nil, record{}, fmt.Errorf("bad record: %d bytes of content %d", n, content)
	}
	return newImage(le.Uint64(b), content, n, n), record{gen: le.Uint32(b[8:]), n: n}, nil
}
