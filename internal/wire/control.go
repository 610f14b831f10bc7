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

// encMode is deterministic, so that frames can be golden-tested.
var encMode = must.Get(cbor.CoreDetEncOptions().UserBufferEncMode())

// decMode bounds what a message can make the decoder do. Unknown map keys are
// skipped: a later minor addition must not break an older peer, and whatever
// matters is negotiated by version.
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

// maxText is the longest text that a message carries for people, in bytes.
const maxText = 1 << 10

// tidy makes a text one that every peer decodes: no text may decide whether a
// message arrives.
func tidy(s *string) {
	*s = strings.ToValidUTF8((*s)[:min(len(*s), maxText)], "?")
}

// tidyTexts does it for the messages that carry words of this side's.
func tidyTexts(m Message) {
	switch m := m.(type) {
	case *Welcome:
		tidy(&m.WitnessFault)
		tidy(&m.Warning)
	case *Declined:
		tidy(&m.Text)
		tidy(&m.Device)
	case *NotStarted:
		tidy(&m.Text)
		tidy(&m.Device)
	case *Abort:
		tidy(&m.Text)
		tidy(&m.Device)
	}
}

// AppendMessage appends m, framed, to dst.
func AppendMessage(dst []byte, m Message) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	if err := frame(b, m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// frame appends m, framed, to what is in b.
func frame(b *bytes.Buffer, m Message) error {
	tidyTexts(m)
	at := b.Len()
	b.Write(make([]byte, controlHeadLen))
	if err := encMode.MarshalToBuffer(m, b); err != nil {
		return fmt.Errorf("transport: encode %v: %w", m.Type(), err)
	}
	return sealControl(b.Bytes()[at:], m.Type())
}

func decodeMessage(t MessageType, body []byte) (Message, error) {
	const cborMap = 5 // major type; null and undefined would decode to nothing at all
	if len(body) == 0 || body[0]>>5 != cborMap {
		return nil, fmt.Errorf("%w: %v is no map", transport.ErrProtocol, t)
	}
	m := messageTypes[t].make()
	if err := decMode.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%w: %v: %w", transport.ErrProtocol, t, err)
	}
	return m, nil
}

// sendTimeout bounds the wait for a peer to take a control message.
const sendTimeout = 2 * time.Second

// Control exchanges messages on the control lane. Send may be called by
// several goroutines, Receive by one.
type Control struct {
	lane transport.Lane
	room []byte // of the message being received

	// sending is held by whoever sends. It is a channel because Write may wait for
	// the peer, and such a wait must not stop the clock of a testing/synctest bubble.
	sending chan struct{}
	out     bytes.Buffer // of the message being sent
	stuck   *time.Timer  // wakes a Write that the peer does not take
}

// NewControl speaks on a lane whose preamble has been exchanged.
func NewControl(lane transport.Lane) *Control {
	return &Control{lane: lane, room: make([]byte, maxControlFrame), sending: make(chan struct{}, 1)}
}

// Send writes one message. An error leaves the lane unusable, and so does a peer
// that takes nothing for sendTimeout: nobody waits for it without end.
func (c *Control) Send(m Message) error {
	c.sending <- struct{}{}
	defer func() { <-c.sending }()
	c.out.Reset()
	if err := frame(&c.out, m); err != nil {
		return err
	}
	if err := c.write(c.out.Bytes()); err != nil {
		return fmt.Errorf("transport: send %v: %w", m.Type(), err)
	}
	return nil
}

// write fails where the timer has fired, even if the peer has taken everything in the
// end: what the timer does to the lane may come at any time from then on.
func (c *Control) write(frame []byte) error {
	if c.stuck == nil {
		c.stuck = time.AfterFunc(sendTimeout, func() { c.lane.SetDeadline(time.Unix(1, 0)) })
	} else {
		c.stuck.Reset(sendTimeout)
	}
	_, err := c.lane.Write(frame)
	if !c.stuck.Stop() && err == nil {
		err = os.ErrDeadlineExceeded
	}
	return err
}

// Receive reads the next message. Unknown messages that may be skipped, are.
func (c *Control) Receive() (Message, error) {
	for {
		t, body, err := readControl(c.lane, c.room)
		if errors.Is(err, errSkip) {
			continue
		}
		if err == io.EOF {
			return nil, fmt.Errorf("transport: the peer hung up: %w", transport.ErrPeerGone)
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

// Lane is the lane underneath.
func (c *Control) Lane() transport.Lane { return c.lane }

// lingerTime bounds the wait for the peer to take the last message and to end
// its side.
const lingerTime = time.Second

// HangUp ends a control lane so that the last message sent still arrives: it
// says that nothing more comes, gives the peer a moment to do the same, and
// closes. join must return when the goroutine that calls Receive has ended.
func HangUp(lane transport.Lane, join func()) {
	lane.CloseWrite()
	lane.SetDeadline(time.Now().Add(lingerTime))
	join()
	lane.Close()
}

// SetDigest sums up the digests of all devices, in HELLO's order.
func SetDigest(digests []migration.StreamDigest) migration.StreamDigest {
	sum := sha256.New()
	for _, d := range digests {
		sum.Write(d[:])
	}
	return migration.StreamDigest(sum.Sum(nil))
}

// Ended reports whether err is the end of a lane, or of the time that it had, and not
// that something wrong was said on it. It ends no attempt.
func Ended(err error) bool {
	return errors.Is(err, transport.ErrPeerGone) || errors.Is(err, os.ErrDeadlineExceeded)
}
