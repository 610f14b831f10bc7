package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/migpipe/migpipe/internal/crc32c"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// Version is the protocol version of this package. HELLO offers a range, so that a
// later package can have two.
const Version = 1

// LaneKind is the purpose of a lane.
type LaneKind uint8

// The kinds of lane.
const (
	LaneControl   LaneKind = 0
	LaneData      LaneKind = 1
	LanePreflight LaneKind = 2 // the control lane of a preflight, which touches no device
	LaneProbe     LaneKind = 3 // a lane by which a preflight measures the path
)

// Preamble is the first message on every lane, from the side that dials.
type Preamble struct {
	Kind  LaneKind
	Index uint16 // number of a data or probe lane, from 0
	Mig   migration.ID
	Epoch uint64
}

const preambleLen = 36

// framing is the version of the layout of preambles and of frames' headers. It
// differs from the protocol version, which HELLO negotiates: a side that also has a
// newer version must be able to send its HELLO to a side that has not.
const framing = 1

var preambleMagic = [4]byte{'M', 'I', 'G', 'P'}

// WritePreamble writes the preamble of a lane that this side has dialled.
func WritePreamble(w io.Writer, p Preamble) error {
	var b [preambleLen]byte
	copy(b[:], preambleMagic[:])
	b[4], b[5] = framing, byte(p.Kind)
	binary.BigEndian.PutUint16(b[6:], p.Index)
	binary.BigEndian.PutUint64(b[8:], p.Epoch)
	copy(b[16:], p.Mig[:])
	binary.BigEndian.PutUint32(b[32:], crc32c.Sum(b[:32]))
	_, err := w.Write(b[:])
	return err
}

// ReadPreamble reads a preamble.
func ReadPreamble(r io.Reader) (Preamble, error) {
	var b [preambleLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Preamble{}, err
	}
	return parsePreamble(b[:])
}

func parsePreamble(b []byte) (Preamble, error) {
	if [4]byte(b) != preambleMagic {
		return Preamble{}, fmt.Errorf("%w: lane begins with %q, not %q", transport.ErrProtocol, b[:4], preambleMagic)
	}
	if got, want := binary.BigEndian.Uint32(b[32:]), crc32c.Sum(b[:32]); got != want {
		return Preamble{}, fmt.Errorf("%w: preamble checksum %#08x, computed %#08x", transport.ErrCorrupt, got, want)
	}
	if b[4] != framing {
		return Preamble{}, fmt.Errorf("%w: lane has framing %d, this side supports %d", transport.ErrProtocol, b[4], framing)
	}
	p := Preamble{
		Kind:  LaneKind(b[5]),
		Index: binary.BigEndian.Uint16(b[6:]),
		Epoch: binary.BigEndian.Uint64(b[8:]),
		Mig:   migration.ID(b[16:32]),
	}
	if p.Kind > LaneProbe {
		return Preamble{}, fmt.Errorf("%w: lane of kind %d", transport.ErrProtocol, p.Kind)
	}
	if p.Index >= p.Kind.maxLanes() {
		return Preamble{}, fmt.Errorf("%w: lane %d of kind %d, limit %d", transport.ErrProtocol, p.Index, p.Kind, p.Kind.maxLanes())
	}
	return p, nil
}

// maxLanes returns the number of lanes of a kind that a migration may have.
func (k LaneKind) maxLanes() uint16 {
	if k == LaneData || k == LaneProbe {
		return transport.MaxLanes
	}
	return 1
}

const controlHeadLen = 12

// maxControlFrame is the longest control message with its header, in bytes.
const maxControlFrame = controlHeadLen + MaxControl

// controlIgnorable marks a message that a receiver may skip if it does not know its
// type.
const controlIgnorable = 1

// sealControl writes the header of a control message. frame has room for it, all
// zeros, before the body.
func sealControl(frame []byte, t MessageType) error {
	h, body := frame[:controlHeadLen], frame[controlHeadLen:]
	if len(body) > MaxControl {
		return fmt.Errorf("transport: %v of %d bytes, limit %d", t, len(body), MaxControl)
	}
	binary.BigEndian.PutUint32(h, uint32(len(body)))
	h[4] = byte(t)
	binary.BigEndian.PutUint32(h[8:], crc32c.Sum(h[:8], body))
	return nil
}

// errSkip is the error for a message of an unknown type that may be skipped.
var errSkip = errors.New("unknown ignorable message")

// readControl reads one framed message into room, which has maxControlFrame bytes. It
// returns the type and the body.
func readControl(r io.Reader, room []byte) (MessageType, []byte, error) {
	h, room := room[:controlHeadLen], room[controlHeadLen:]
	if _, err := io.ReadFull(r, h); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h)
	if n > MaxControl {
		return 0, nil, fmt.Errorf("%w: control message of %d bytes, limit %d", transport.ErrProtocol, n, MaxControl)
	}
	body := room[:n]
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, noEOF(err)
	}
	if got, want := binary.BigEndian.Uint32(h[8:]), crc32c.Sum(h[:8], body); got != want {
		return 0, nil, fmt.Errorf("%w: control message checksum %#08x, computed %#08x", transport.ErrCorrupt, got, want)
	}
	if h[5]&^controlIgnorable != 0 || h[6] != 0 || h[7] != 0 {
		return 0, nil, fmt.Errorf("%w: control message with reserved bits %#06x", transport.ErrProtocol, h[5:8])
	}
	t := MessageType(h[4])
	if !t.isKnown() {
		if h[5]&controlIgnorable != 0 {
			return t, nil, errSkip
		}
		return t, nil, fmt.Errorf("%w: control message of unknown type %d", transport.ErrProtocol, h[4])
	}
	return t, body, nil
}
