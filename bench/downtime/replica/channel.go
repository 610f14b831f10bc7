package replica

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/migpipe/migpipe/transport"
)

// bufferSize is the size of a read from a device: QEMU's 1 MiB. Upstream found no gain
// above it.
const bufferSize = 1 << 20

const headerSize = 16

// The tags of packets.
const (
	tagData    = iota + 1 // bytes of a device's stream follow
	tagInitial            // the device's initial bytes have been sent (INIT_DATA_SENT)
	tagEnd                // the device's stream is whole
	tagAck                // every device has written its initial bytes
	tagDone               // every device runs
)

// header precedes every packet.
type header struct {
	tag, device uint16
	length      uint32
	index       uint64 // of the packet in its device's stream, for multifd
}

// channel is a lane that carries packets.
type channel struct {
	lane transport.Lane
	buf  []byte // for sending: a header and a buffer
}

func newChannel(l transport.Lane) *channel {
	return &channel{lane: l, buf: make([]byte, headerSize+bufferSize)}
}

// sendFrame sends a packet whose payload follows the header's room in frame.
func (c *channel) sendFrame(h header, frame []byte) error {
	binary.BigEndian.PutUint16(frame, h.tag)
	binary.BigEndian.PutUint16(frame[2:], h.device)
	binary.BigEndian.PutUint32(frame[4:], h.length)
	binary.BigEndian.PutUint64(frame[8:], h.index)
	_, err := c.lane.Write(frame[:headerSize+h.length])
	return err
}

// tell sends a packet without payload.
func (c *channel) tell(tag uint16, device int) error {
	return c.sendFrame(header{tag: tag, device: uint16(device)}, c.buf)
}

// next reads a header and checks it for a set of that many devices.
func (c *channel) next(devices int) (h header, err error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(c.lane, b[:]); err != nil {
		return h, err
	}
	h = header{binary.BigEndian.Uint16(b[:]), binary.BigEndian.Uint16(b[2:]),
		binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:])}
	if int(h.device) >= devices || h.length > bufferSize {
		return h, fmt.Errorf("bad packet: %+v", h)
	}
	return h, nil
}

// await reads a packet, which must have this tag.
func (c *channel) await(tag uint16) error {
	h, err := c.next(1)
	if err == nil && h.tag != tag {
		err = fmt.Errorf("packet has tag %d, want %d", h.tag, tag)
	}
	return err
}
