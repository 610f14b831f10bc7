package wire

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/migpipe/migpipe/internal/must"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// encMode is deterministic, so that tests can compare frames with golden files.
var encMode = must.Get(cbor.CoreDetEncOptions().UserBufferEncMode())

// decMode bounds the work of the decoder for a message. It skips unknown map keys, so
// that a later minor addition does not break an older peer. Other changes need a new
// version.
var decMode = must.Get(cbor.DecOptions{
	DupMapKey:        cbor.DupMapKeyEnforcedAPF,
	IndefLength:      cbor.IndefLengthForbidden,
	TagsMd:           cbor.TagsForbidden,
	MaxNestedLevels:  6,
	MaxArrayElements: MaxDevices,
	MaxMapPairs:      32,
	UTF8:             cbor.UTF8RejectInvalid,
	IntDec:           cbor.IntDecConvertNone,
}.DecMode())

// maxText is the length of the longest text for people in a message, in bytes.
const maxText = 1 << 10

// truncateText makes a text short and valid, so that every peer decodes the message.
func truncateText(s *string) {
	*s = strings.ToValidUTF8((*s)[:min(len(*s), maxText)], "?")
}

// truncateTexts truncates all texts of a message.
func truncateTexts(m Message) {
	switch m := m.(type) {
	case *Welcome:
		truncateText(&m.WitnessFault)
		truncateText(&m.Warning)
	case *Declined:
		truncateText(&m.Text)
		truncateText(&m.Device)
	case *NotStarted:
		truncateText(&m.Text)
		truncateText(&m.Device)
	case *Abort:
		truncateText(&m.Text)
		truncateText(&m.Device)
	}
}

// AppendMessage appends m, framed, to dst.
func AppendMessage(dst []byte, m Message) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	if err := frameMessage(b, m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// frameMessage appends m, framed, to b.
func frameMessage(b *bytes.Buffer, m Message) error {
	truncateTexts(m)
	at := b.Len()
	b.Write(make([]byte, controlHeadLen))
	if err := encMode.MarshalToBuffer(m, b); err != nil {
		return fmt.Errorf("transport: encode %v: %w", m.Type(), err)
	}
	return sealControl(b.Bytes()[at:], m.Type())
}

func decodeMessage(t MessageType, body []byte) (Message, error) {
	const cborMap = 5 // major type; null and undefined would decode to an empty message
	if len(body) == 0 || body[0]>>5 != cborMap {
		return nil, fmt.Errorf("%w: %v is not a map", transport.ErrProtocol, t)
	}
	m := messageTypes[t].make()
	if err := decMode.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%w: %v: %w", transport.ErrProtocol, t, err)
	}
	return m, nil
}

// sendTimeout bounds the wait until a peer has read a control message.
const sendTimeout = 2 * time.Second

// Control exchanges messages on the control lane. Several goroutines may call Send,
// one may call Receive.
type Control struct {
	lane transport.Lane
	room []byte // of the message being received

	// sending is held during Send. It is a channel, since Write may wait for the peer,
	// and a wait for a mutex would stop the clock of a testing/synctest bubble.
	sending chan struct{}
	out     bytes.Buffer // of the message being sent
	timeout *time.Timer  // wakes a Write that the peer does not take
}

// NewControl returns a Control on a lane whose preamble has been exchanged.
func NewControl(lane transport.Lane) *Control {
	return &Control{lane: lane, room: make([]byte, maxControlFrame), sending: make(chan struct{}, 1)}
}

// Send writes one message. It fails if the peer does not read for sendTimeout. After an
// error the lane is unusable.
func (c *Control) Send(m Message) error {
	c.sending <- struct{}{}
	defer func() { <-c.sending }()
	c.out.Reset()
	if err := frameMessage(&c.out, m); err != nil {
		return err
	}
	if err := c.writeInTime(c.out.Bytes()); err != nil {
		return fmt.Errorf("transport: send %v: %w", m.Type(), err)
	}
	return nil
}

// writeInTime writes a frame within sendTimeout. It fails if the timer has fired, even if
// the peer has read the frame: the timer may set the lane's deadline at any later time.
func (c *Control) writeInTime(frame []byte) error {
	if c.timeout == nil {
		c.timeout = time.AfterFunc(sendTimeout, func() { c.lane.SetDeadline(time.Unix(1, 0)) })
	} else {
		c.timeout.Reset(sendTimeout)
	}
	_, err := c.lane.Write(frame)
	if !c.timeout.Stop() && err == nil {
		err = os.ErrDeadlineExceeded
	}
	return err
}

// Receive reads the next message. It skips unknown messages that may be skipped.
func (c *Control) Receive() (Message, error) {
	for {
		t, body, err := readControl(c.lane, c.room)
		if errors.Is(err, errSkip) {
			continue
		}
		if err == io.EOF {
			return nil, fmt.Errorf("transport: the peer closed the lane: %w", transport.ErrPeerGone)
		}
		if err != nil {
			return nil, fmt.Errorf("transport: receive: %w", err)
		}
		m, err := decodeMessage(t, body)
		if err != nil {
			return nil, fmt.Errorf("transport: receive: %w", err)
		}
		return m, nil
	}
}

// Lane returns the lane of the control conversation.
func (c *Control) Lane() transport.Lane { return c.lane }

// lingerTime bounds the wait until the peer has read the last message and closed its
// side.
const lingerTime = time.Second

// HangUp closes a control lane so that the last message still arrives. It closes this
// side's writing direction, waits up to lingerTime until the peer does the same, and
// closes the lane. join must return when the goroutine that calls Receive has ended.
func HangUp(lane transport.Lane, join func()) {
	lane.CloseWrite()
	lane.SetDeadline(time.Now().Add(lingerTime))
	join()
	lane.Close()
}

// SetDigest returns the digest of the digests of all devices, in HELLO's order.
func SetDigest(digests []migration.StreamDigest) migration.StreamDigest {
	sum := sha256.New()
	for _, d := range digests {
		sum.Write(d[:])
	}
	return migration.StreamDigest(sum.Sum(nil))
}

// IsLaneEnd reports whether err is the end of a lane or its deadline, as opposed to an invalid
// message. Such an error does not end an attempt.
func IsLaneEnd(err error) bool {
	return errors.Is(err, transport.ErrPeerGone) || errors.Is(err, os.ErrDeadlineExceeded)
}
