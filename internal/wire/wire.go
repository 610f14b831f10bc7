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

// Version is the protocol version that this package speaks; HELLO offers a
// range so that a later one can speak two.
const Version = 1

// LaneKind says what a lane is for.
type LaneKind uint8

// The kinds of lane.
const (
	LaneControl   LaneKind = 0
	LaneData      LaneKind = 1
	LanePreflight LaneKind = 2 // the control lane of a preflight, which touches no device
	LaneProbe     LaneKind = 3 // what a preflight measures the path with
)

// Preamble opens every lane: the first bytes that the dialling side writes.
type Preamble struct {
	Kind  LaneKind
	Index uint16 // number of a data or probe lane, from 0
	Mig   migration.ID
	Epoch uint64
}

const preambleLen = 36

// framing numbers the layout of preambles and of frames' headers. It is not the
// protocol version: a side that speaks a newer one too must be able to say so,
// in HELLO, to a side that does not.
const framing = 1

var preambleMagic = [4]byte{'M', 'I', 'G', 'P'}

// WritePreamble opens a lane that was dialled.
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

// ReadPreamble reads what WritePreamble wrote.
func ReadPreamble(r io.Reader) (Preamble, error) {
	var b [preambleLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Preamble{}, err
	}
	return parsePreamble(b[:])
}

func parsePreamble(b []byte) (Preamble, error) {
	if [4]byte(b) != preambleMagic {
		return Preamble{}, fmt.Errorf("%w: lane opens with %q, not %q", transport.ErrProtocol, b[:4], preambleMagic)
	}
	if got, want := binary.BigEndian.Uint32(b[32:]), crc32c.Sum(b[:32]); got != want {
		return Preamble{}, fmt.Errorf("%w: preamble checksum %#08x, computed %#08x", transport.ErrCorrupt, got, want)
	}
	if b[4] != framing {
		return Preamble{}, fmt.Errorf("%w: lane with framing %d, this side speaks %d", transport.ErrProtocol, b[4], framing)
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
	if p.Index >= p.Kind.lanes() {
		return Preamble{}, fmt.Errorf("%w: lane %d of kind %d, limit %d", transport.ErrProtocol, p.Index, p.Kind, p.Kind.lanes())
	}
	return p, nil
}

// lanes is the number of lanes of a kind that a migration may have.
func (k LaneKind) lanes() uint16 {
	if k == LaneData || k == LaneProbe {
		return transport.MaxLanes
	}
	return 1
}

const controlHeadLen = 12

// maxControlFrame is the longest control message with its header, in bytes.
const maxControlFrame = controlHeadLen + MaxControl

// controlIgnorable marks a message that a receiver who does not know its type
// may skip.
const controlIgnorable = 1

// sealControl writes the header of a control message, for which there is room, all 0,
// in front of its body.
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

// errSkip says that a message's type is unknown and may be.
var errSkip = errors.New("unknown ignorable message")

// readControl reads one framed message into room, which has maxControlFrame bytes,
// and returns its type and its body.
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
	if !t.known() {
		if h[5]&controlIgnorable != 0 {
			return t, nil, errSkip
		}
		return t, nil, fmt.Errorf("%w: control message of unknown type %d", transport.ErrProtocol, h[4])
	}
	return t, body, nil
}
