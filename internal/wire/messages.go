package wire

import (
	"errors"
	"fmt"
	"sync"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// MessageType is the number of a control message. Numbers are never reused.
type MessageType uint8

// The control messages of protocol version 1.
const (
	TypeHello      MessageType = 1
	TypeWelcome    MessageType = 2
	TypeEstimate   MessageType = 3
	TypeAck        MessageType = 4
	TypeEnd        MessageType = 5
	TypeReady      MessageType = 6
	TypeCommit     MessageType = 7
	TypeRunning    MessageType = 8
	TypeDeclined   MessageType = 9
	TypeNotStarted MessageType = 10
	TypeCancel     MessageType = 11
	TypeAbort      MessageType = 12
	TypeQuery      MessageType = 13
	TypeStatus     MessageType = 14
	TypeFin        MessageType = 15
	TypeResume     MessageType = 16
)

var messageTypes = [...]struct {
	name string
	make func() Message
}{
	TypeHello:      {"HELLO", func() Message { return new(Hello) }},
	TypeWelcome:    {"WELCOME", func() Message { return new(Welcome) }},
	TypeEstimate:   {"ESTIMATE", func() Message { return new(Estimate) }},
	TypeAck:        {"ACK", func() Message { return acks.Get().(*Ack) }},
	TypeEnd:        {"END", func() Message { return new(End) }},
	TypeReady:      {"READY", func() Message { return new(Ready) }},
	TypeCommit:     {"COMMIT", func() Message { return new(Commit) }},
	TypeRunning:    {"RUNNING", func() Message { return new(Running) }},
	TypeDeclined:   {"DECLINED", func() Message { return new(Declined) }},
	TypeNotStarted: {"NOT_STARTED", func() Message { return new(NotStarted) }},
	TypeCancel:     {"CANCEL", func() Message { return new(Cancel) }},
	TypeAbort:      {"ABORT", func() Message { return new(Abort) }},
	TypeQuery:      {"QUERY", func() Message { return new(Query) }},
	TypeStatus:     {"STATUS", func() Message { return new(Status) }},
	TypeFin:        {"FIN", func() Message { return new(Fin) }},
	TypeResume:     {"RESUME", func() Message { return new(Resume) }},
}

func (t MessageType) isKnown() bool {
	return int(t) < len(messageTypes) && messageTypes[t].make != nil
}

// String returns the message's name in PROTOCOL.md.
func (t MessageType) String() string {
	if t.isKnown() {
		return messageTypes[t].name
	}
	return fmt.Sprintf("MessageType(%d)", uint8(t))
}

// Message is one of the control messages below.
type Message interface {
	Type() MessageType
	// About returns the attempt to which the message belongs.
	About() *migration.Attempt
}

// Versions is a range of protocol versions, both ends included.
type Versions struct {
	Min uint16 `cbor:"1,keyasint"`
	Max uint16 `cbor:"2,keyasint"`
}

// DeviceOffer describes one device of the source to the destination.
type DeviceOffer struct {
	Name      string `cbor:"1,keyasint"`
	Driver    string `cbor:"2,keyasint,omitempty"`
	Vendor    uint32 `cbor:"3,keyasint,omitempty"`
	Device    uint32 `cbor:"4,keyasint,omitempty"`
	Subsystem string `cbor:"5,keyasint,omitempty"`
	Kernel    string `cbor:"6,keyasint,omitempty"`
	Format    string `cbor:"7,keyasint,omitempty"`
	Flags     uint32 `cbor:"8,keyasint"`           // VFIO_MIGRATION_* of the source
	Estimate  uint64 `cbor:"9,keyasint,omitempty"` // bytes of STOP_COPY, 0 unknown
	Splice    bool   `cbor:"10,keyasint,omitempty"`
	Priority  uint8  `cbor:"11,keyasint,omitempty"` // a factor of its share, to MaxPriority; 0 is 1
}

// CheckNames checks the names of a migration's devices against the limits. No two may
// be the same.
func CheckNames(names []string) error {
	if len(names) == 0 || len(names) > MaxDevices {
		return fmt.Errorf("%d devices, must be 1 to %d", len(names), MaxDevices)
	}
	seen := map[string]bool{}
	for i, name := range names {
		if name == "" || len(name) > MaxName {
			return fmt.Errorf("device %d has the name %q, must be 1 to %d bytes", i, name, MaxName)
		}
		if seen[name] {
			return fmt.Errorf("two devices have the name %q", name)
		}
		seen[name] = true
	}
	return nil
}

// Hello is the first message. It describes the source, its devices and its features.
type Hello struct {
	migration.Attempt
	Versions  Versions            `cbor:"3,keyasint"`
	Journal   migration.JournalID `cbor:"4,keyasint"`
	Devices   []DeviceOffer       `cbor:"5,keyasint"`
	ChunkSize uint32              `cbor:"6,keyasint"` // largest chunk of the source
	Lanes     uint16              `cbor:"7,keyasint"` // number of data lanes that the source prefers
	Codecs    []codec.ID          `cbor:"8,keyasint"`
	Software  string              `cbor:"9,keyasint,omitempty"`
	Witness   string              `cbor:"11,keyasint,omitempty"` // name of the register that decides in doubt, if there is one
}

// Window is a promise of the destination: it has memory for every chunk with a number
// below Seq that ends at or below Offset.
type Window struct {
	Seq    uint64 `cbor:"1,keyasint"`
	Offset uint64 `cbor:"2,keyasint"`
}

// Welcome accepts the HELLO of an authenticated source.
type Welcome struct {
	migration.Attempt
	Version   uint16              `cbor:"3,keyasint"`
	Journal   migration.JournalID `cbor:"4,keyasint"`
	ChunkSize uint32              `cbor:"5,keyasint"`
	Lanes     uint16              `cbor:"6,keyasint"`
	Codecs    []codec.ID          `cbor:"7,keyasint"`
	Windows   []Window            `cbor:"8,keyasint"` // by index of the device in HELLO
	Splice    []bool              `cbor:"9,keyasint,omitempty"`
	Software  string              `cbor:"10,keyasint,omitempty"`
	EnterNS   int64               `cbor:"11,keyasint,omitempty"` // nanoseconds that RESUMING took, of the slowest device
	HeldNS    int64               `cbor:"12,keyasint,omitempty"` // nanoseconds since HELLO came
	Witness   string              `cbor:"14,keyasint,omitempty"` // HELLO's: the destination asks it before it accepts

	// The times of the destination's steps between READY and RUNNING, in nanoseconds: 0 if
	// there is no such step, and UnknownNS if its time is not known.
	JournalNS    int64  `cbor:"15,keyasint,omitempty"` // one of the two records
	WitnessNS    int64  `cbor:"16,keyasint,omitempty"` // the witness's answer to a probe
	WitnessFault string `cbor:"17,keyasint,omitempty"` // why the witness did not answer
	AcceptNS     int64  `cbor:"18,keyasint,omitempty"` // the hook on ACCEPT, the last time that it ran
	GuestNS      int64  `cbor:"19,keyasint,omitempty"` // the start of the guest, the last time
	StartNS      int64  `cbor:"20,keyasint,omitempty"` // the start of the devices, the last time
	Warning      string `cbor:"21,keyasint,omitempty"` // why the migration fails if estimates are right
}

// UnknownNS is the value in WELCOME for a step whose time is not known.
const UnknownNS = -1

// Estimate has the bytes that the source expects to send for each device, and whether
// the guest is paused. All numbers are hints.
type Estimate struct {
	migration.Attempt
	Stopped bool             `cbor:"3,keyasint"`
	Devices []DeviceEstimate `cbor:"4,keyasint"`
	Stamp   int64            `cbor:"5,keyasint,omitempty"` // nanoseconds of the source's clock, for Ack.Echo
}

// DeviceEstimate is the part of an Estimate for one device.
type DeviceEstimate struct {
	Initial  uint64 `cbor:"1,keyasint,omitempty"` // PRE_COPY initial_bytes
	Dirty    uint64 `cbor:"2,keyasint,omitempty"` // PRE_COPY dirty_bytes
	StopCopy uint64 `cbor:"3,keyasint,omitempty"` // MIG_DATA_SIZE
	Known    bool   `cbor:"4,keyasint,omitempty"` // the driver gave any of the three
}

// DeviceAck is the part of an Ack for one device.
type DeviceAck struct {
	Seq     uint64 `cbor:"1,keyasint"` // the next chunk to be applied
	Applied uint64 `cbor:"2,keyasint"` // bytes that were written to the device
	Window  Window `cbor:"3,keyasint"`
	LoadNS  int64  `cbor:"4,keyasint,omitempty"` // nanoseconds that write(2) took so far
}

// Ack has the destination's progress and its promises. It is also the heartbeat. It is
// padded, so that a peer without state of the connection may answer with a stateless
// reset (RFC 9000, section 10.3).
type Ack struct {
	migration.Attempt
	Journal migration.JournalID `cbor:"3,keyasint"`
	Devices []DeviceAck         `cbor:"4,keyasint"`
	Pad     Pad                 `cbor:"5,keyasint,omitempty"`
	Echo    int64               `cbor:"6,keyasint,omitempty"` // the Stamp of the last Estimate
	HeldNS  int64               `cbor:"7,keyasint,omitempty"` // nanoseconds since that Estimate arrived
	Padding uint64              `cbor:"8,keyasint,omitempty"` // bytes of padding that were received
	// Read has, by number of a data lane, the bytes after the preamble that were read from the
	// current lane of that number.
	Read []uint64 `cbor:"9,keyasint,omitempty"`
}

// acks has released Acks.
var acks = sync.Pool{New: func() any { return new(Ack) }}

// Release allows a later ACK to be decoded into this one. The caller must not use it any more.
// A receiver may retain an Ack instead of releasing it.
func (a *Ack) Release() {
	clear(a.Devices) // the decoder does not reset fields that a frame omits
	*a = Ack{Devices: a.Devices[:0], Read: a.Read[:0]}
	acks.Put(a)
}

// Pad is bytes without meaning. A receiver discards them.
type Pad []byte

// UnmarshalCBOR accepts and discards any byte string.
func (*Pad) UnmarshalCBOR(item []byte) error {
	const cborBytes = 2 // major type
	if item[0]>>5 != cborBytes {
		return errors.New("not a byte string")
	}
	return nil
}

// End ends one device's stream.
type End struct {
	migration.Attempt
	Device uint16                 `cbor:"3,keyasint"`
	Bytes  uint64                 `cbor:"4,keyasint"`
	Chunks uint64                 `cbor:"5,keyasint"`
	Digest migration.StreamDigest `cbor:"6,keyasint"`
}

// Ready reports that every device is in STOP and holds its whole stream, verified.
type Ready struct {
	migration.Attempt
	Journal migration.JournalID    `cbor:"3,keyasint"`
	Digest  migration.StreamDigest `cbor:"4,keyasint"` // of all devices' digests, in HELLO's order
}

// Commit transfers the right to run to the destination.
type Commit struct {
	migration.Attempt
	Journal migration.JournalID    `cbor:"3,keyasint"` // the destination's, from WELCOME
	Digest  migration.StreamDigest `cbor:"4,keyasint"`
}

// Running reports that the destination's devices run.
type Running struct {
	migration.Attempt
	Journal migration.JournalID `cbor:"3,keyasint"`
	StartNS int64               `cbor:"4,keyasint"` // nanoseconds that the start took

	WitnessNS int64 `cbor:"5,keyasint,omitempty"` // from COMMIT to the witness's answer
	AcceptNS  int64 `cbor:"6,keyasint,omitempty"` // the hook on ACCEPT
}

// Declined reports that the devices will never run at the destination by this attempt.
type Declined struct {
	migration.Attempt
	Journal migration.JournalID `cbor:"3,keyasint"`
	Code    transport.Code      `cbor:"4,keyasint"`
	Device  string              `cbor:"5,keyasint,omitempty"`
	Offset  uint64              `cbor:"6,keyasint,omitempty"`
	Text    string              `cbor:"7,keyasint,omitempty"`
}

// NotStarted reports that the destination is in READY and holds its copy, and asks the source to
// return its devices to RUNNING: the start has failed, or the destination's user has cancelled.
type NotStarted struct {
	migration.Attempt
	Journal migration.JournalID `cbor:"3,keyasint"`
	Device  string              `cbor:"4,keyasint,omitempty"`
	Text    string              `cbor:"5,keyasint,omitempty"`
	Code    transport.Code      `cbor:"6,keyasint,omitempty"`
}

// Cancel asks for the right to run back, while the source still holds its stopped
// devices.
type Cancel struct{ migration.Attempt }

// Abort reports that the source has returned its devices to RUNNING, before COMMIT.
type Abort struct {
	migration.Attempt
	Code   transport.Code `cbor:"3,keyasint"`
	Text   string         `cbor:"4,keyasint,omitempty"`
	Device string         `cbor:"5,keyasint,omitempty"`
	Offset uint64         `cbor:"6,keyasint,omitempty"`
}

// Query asks for the destination's record of this attempt.
type Query struct{ migration.Attempt }

// Status answers Query.
type Status struct {
	migration.Attempt
	Journal  migration.JournalID    `cbor:"3,keyasint"`
	Record   string                 `cbor:"4,keyasint"` // a handoff.Record's name
	MaxEpoch uint64                 `cbor:"5,keyasint"`
	Digest   migration.StreamDigest `cbor:"6,keyasint"`
	Received uint64                 `cbor:"7,keyasint,omitempty"` // bytes that arrived on probe lanes
	Text     string                 `cbor:"8,keyasint,omitempty"` // with FORCED: who decided, when and why
}

// Fin reports that the source has recorded the end. It has the source's times, so that
// both reports show the same figures.
type Fin struct {
	migration.Attempt
	TotalNS    int64      `cbor:"3,keyasint"`
	DowntimeNS int64      `cbor:"4,keyasint"`
	Stages     []FinStage `cbor:"5,keyasint,omitempty"` // of the downtime, in order
}

// FinStage is one stage of the downtime.
type FinStage struct {
	Name string `cbor:"1,keyasint"`
	NS   int64  `cbor:"2,keyasint"`
}

// Resume continues an attempt over a new control lane: the earlier lane was lost, or
// the source's process has ended since.
type Resume struct {
	migration.Attempt
	Journal migration.JournalID `cbor:"3,keyasint"` // the source's
	Peer    migration.JournalID `cbor:"4,keyasint"` // the destination's, from WELCOME
}

// Type is the message's number.
func (*Hello) Type() MessageType { return TypeHello }

// Type is the message's number.
func (*Welcome) Type() MessageType { return TypeWelcome }

// Type is the message's number.
func (*Estimate) Type() MessageType { return TypeEstimate }

// Type is the message's number.
func (*Ack) Type() MessageType { return TypeAck }

// Type is the message's number.
func (*End) Type() MessageType { return TypeEnd }

// Type is the message's number.
func (*Ready) Type() MessageType { return TypeReady }

// Type is the message's number.
func (*Commit) Type() MessageType { return TypeCommit }

// Type is the message's number.
func (*Running) Type() MessageType { return TypeRunning }

// Type is the message's number.
func (*Declined) Type() MessageType { return TypeDeclined }

// Type is the message's number.
func (*NotStarted) Type() MessageType { return TypeNotStarted }

// Type is the message's number.
func (*Cancel) Type() MessageType { return TypeCancel }

// Type is the message's number.
func (*Abort) Type() MessageType { return TypeAbort }

// Type is the message's number.
func (*Query) Type() MessageType { return TypeQuery }

// Type is the message's number.
func (*Status) Type() MessageType { return TypeStatus }

// Type is the message's number.
func (*Fin) Type() MessageType { return TypeFin }

// Type is the message's number.
func (*Resume) Type() MessageType { return TypeResume }
